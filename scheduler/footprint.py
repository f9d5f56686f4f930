"""How many bytes a batch of jobs needs at its peak, from a model's measured card.

A batch's KV cache is a rectangle: every row is as long as the longest (mlx-lm ``BatchKVCache``). It
grows by 256 tokens at a time, and a growth keeps what it has, so a row of ``n`` tokens never takes
more than ``n + 255`` slots. Merging, filtering and growing a batch copy it layer by layer; the copy of
one layer, and of a joining prompt's own rows, lives beside the original for a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

GROWTH_TOKENS: Final = 256
"""Tokens that mlx-lm's caches grow by (``KVCache.step``)."""

CARD_VERSION: Final = 1

# Layers' worth of cache that regrouping a batch copies for a moment. The worst measured was 1.52 with one
# layer, 1.76 with sixteen (mlx-lm 0.32.2, CPU, peak less weights over the rectangle).
_REGROUP_LAYERS: Final = 1.8
_TRANSIENT_MARGIN: Final = 1.15


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers whose caches are of one kind.

    ``bytes_per_token`` is the sum over the group's layers for one row; ``state_bytes`` is what they
    keep whatever the length; ``window_tokens`` bounds a sliding cache.
    """

    kind: Literal["full", "sliding", "state"]
    layers: int
    bytes_per_token: int = 0
    state_bytes: int = 0
    window_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What was measured about a model on a host, in bytes.

    The transient of a prefill chunk of S tokens at context K is
    ``fixed + S · per_token + S · K · per_pair`` for one row.
    """

    model: str
    device: str
    weights_bytes: int
    caches: tuple[CacheGroup, ...]
    logits_bytes: int
    transient_fixed_bytes: int
    transient_bytes_per_token: float
    transient_bytes_per_pair: float
    context_tokens: int
    version: int = CARD_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelCard:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the card is of another version or lacks a field.
        """
        if fields.get("version") != CARD_VERSION:
            raise ValueError(f"a model card of version {fields.get('version')!r}; this is {CARD_VERSION}")
        try:
            caches = tuple(CacheGroup(**group) for group in fields["caches"])
            return cls(**{**fields, "caches": caches})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a model card: {error}") from None


@dataclass(frozen=True, slots=True)
class Row:
    """One job's place in a batch, in tokens."""

    prompt_tokens: int
    max_tokens: int

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.max_tokens < 1:
            raise ValueError(f"a row needs a prompt and a token: {self}")

    @property
    def tokens(self) -> int:
        """The longest it gets."""
        return self.prompt_tokens + self.max_tokens


def fitted(card: ModelCard, row: Row) -> Row:
    """The row as the model's positions allow it: no more than they hold of prompt, then of answer."""
    prompt = max(1, min(row.prompt_tokens, card.context_tokens - 1))
    return Row(prompt, max(1, min(row.max_tokens, card.context_tokens - prompt)))


def row_bytes(card: ModelCard, tokens: int, chunk_tokens: int) -> int:
    """Cache bytes of one row of a batch whose longest row has ``tokens``."""
    return sum(_group_bytes(group, tokens, chunk_tokens) for group in card.caches)


def _group_bytes(group: CacheGroup, tokens: int, chunk_tokens: int) -> int:
    slots = tokens + GROWTH_TOKENS - 1
    if group.kind == "sliding":
        slots = min(slots, group.window_tokens + chunk_tokens - 1)
    return group.state_bytes + group.bytes_per_token * slots


def transient_bytes(card: ModelCard, rows: int, chunk_tokens: int, context_tokens: int) -> int:
    """What one step needs beside weights and caches: the larger of a prefill chunk and a decode step.

    Args:
        card: the model.
        rows: how many are in the step.
        chunk_tokens: prompt tokens of each row in the step.
        context_tokens: the longest context that they attend to.
    """
    pairs = chunk_tokens * context_tokens * card.transient_bytes_per_pair
    prefill = card.transient_fixed_bytes + rows * (chunk_tokens * card.transient_bytes_per_token + pairs)
    decode = 3 * rows * card.logits_bytes
    return int(max(prefill * _TRANSIENT_MARGIN, decode))


def batch_bytes(card: ModelCard, rows: Sequence[Row], chunk_tokens: int, prefill_rows: int) -> int:
    """The most that a batch of ``rows`` takes beside the weights, over its whole life.

    Args:
        card: the model.
        rows: every job that shares the batch.
        chunk_tokens: the prefill chunk.
        prefill_rows: how many prompts are computed together at most.
    """
    if not rows:
        return 0
    longest = max(row.tokens for row in rows)
    rectangle = len(rows) * row_bytes(card, longest, chunk_tokens)
    chunk = min(chunk_tokens, max(row.prompt_tokens for row in rows))
    together = min(prefill_rows, len(rows))
    step = max(
        transient_bytes(card, together, chunk, longest),
        3 * len(rows) * card.logits_bytes,
    )
    regroup = len(rows) * sum(
        int(_REGROUP_LAYERS / group.layers * _group_bytes(group, longest, chunk_tokens))
        for group in card.caches
    )
    return rectangle + regroup + step


def alone_bytes(card: ModelCard, row: Row, chunk_tokens: int) -> int:
    """A job's footprint alone, weights counted: what decides whether it could ever run."""
    return card.weights_bytes + batch_bytes(card, [row], chunk_tokens, 1)
