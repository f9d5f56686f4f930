"""How many bytes jobs need at their peak, from a model's measured card and their batch's foreseen life.

What a step takes beside weights and caches, for B rows of S new tokens at a context of K::

    prefill   B · max(T1(S), S · (b + c · K))     T1 measured at a few S, b and c at long contexts
    decode    max(6 · B · vocabulary, copies + B · (d + c · K))
    padded    B · S · p · K more, where rows have different lengths

The first line's maximum is over kinds of layers: they follow each other, and the largest counts. ``c`` is
about query heads x item size + 1 bytes per (token, key) where attention is not fused, near 0 where it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, Final

from pydantic import ConfigDict, TypeAdapter

from scheduler.foresight import Row, Step, replay
from scheduler.rectangles import GROWTH_TOKENS, CacheGroup

CARD_VERSION: Final = 3

MARGIN: Final = 1.15
"""On what a step takes, until a model's own steps have taught a better one."""

_MOST: Final = 10.0
"""More than any margin that is learnt."""

_BEYOND_PROBES: Final = 1.2
"""On a chunk longer than any that was measured."""

_SMALL_BYTES: Final = 1 << 16
"""Masks, positions and tokens of a step."""

_COPY_MARGIN: Final = 1.02

_LOGIT_ROWS: Final = 6
"""Rows of the vocabulary that sampling takes for each sequence at most: 2 where it is greedy, 4 with a
temperature, 5 with nucleus and penalties; and the last step's."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What was measured about a model on a host, in bytes.

    Args:
        model: its name.
        device: where it was measured.
        weights_bytes: of its parameters.
        caches: the kinds of cache that one row has.
        logits_bytes: one row of the vocabulary.
        chunk_bytes: (S, T1(S)) for a few chunk lengths S in tokens, ascending.
        attention_bytes_per_token: ``b`` of the module's formula; may be below 0.
        attention_bytes_per_pair: ``c``.
        padded_bytes_per_pair: ``p``.
        decode_bytes: ``d``, of one row.
        copied_layers: how many layers' copies are alive at once where caches are copied: about 1 where a layer
            is done before the next begins, up to all of them where a device works behind.
        context_tokens: the model's positions.
        prefill_margin: on prefill's steps, learnt from measured ones.
        decode_margin: on decode's.
        fingerprint: of the model's files, MLX's version and the device.
    """

    model: str
    device: str
    weights_bytes: int
    caches: tuple[CacheGroup, ...]
    logits_bytes: int
    chunk_bytes: tuple[tuple[int, int], ...]
    attention_bytes_per_token: float
    attention_bytes_per_pair: float
    decode_bytes: int
    context_tokens: int
    padded_bytes_per_pair: float = 0.0
    copied_layers: float = 1.0
    prefill_margin: float = MARGIN
    decode_margin: float = MARGIN
    fingerprint: str = ""
    version: int = CARD_VERSION

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        lengths = [tokens for tokens, _ in self.chunk_bytes]
        if not lengths or lengths != sorted(set(lengths)) or lengths[0] < 1:
            raise ValueError(f"chunk lengths must ascend: {lengths}")
        sizes = [size for _, size in self.chunk_bytes]
        sizes += [self.weights_bytes, self.logits_bytes, self.decode_bytes, self.context_tokens - 2]
        figures = [*sizes, self.attention_bytes_per_pair, self.padded_bytes_per_pair, self.copied_layers]
        margins = (self.prefill_margin, self.decode_margin)
        known = all(0 <= figure < math.inf for figure in figures) and all(1 <= m <= _MOST for m in margins)
        if not (known and math.isfinite(self.attention_bytes_per_token)):
            raise ValueError(f"figures out of range: {self}")

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelCard:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the card is of another version, lacks a field or has one of another type.
        """
        if fields.get("version") != CARD_VERSION:
            raise ValueError(f"a model card of version {fields.get('version')!r}; this is {CARD_VERSION}")
        return _reader().validate_python(fields)


@lru_cache(maxsize=1)
def _reader() -> TypeAdapter[ModelCard]:
    return TypeAdapter(ModelCard)


def fitted(card: ModelCard, row: Row) -> Row:
    """The row as the model's positions allow it: no more than they hold of prompt, then of answer."""
    prompt = max(1, min(row.prompt_tokens, card.context_tokens - 1))
    return Row(prompt, max(1, min(row.max_tokens, card.context_tokens - prompt)))


def chunk_bytes(card: ModelCard, tokens: int) -> float:
    """T1(S): one row's first chunk; between measured lengths on a line, the square part of S taken apart."""
    square = card.attention_bytes_per_pair
    points = [(length, size - square * length**2) for length, size in card.chunk_bytes]
    if len(points) == 1:
        (length, size), slope = points[0], max(0.0, points[0][1] / points[0][0])
    else:
        pairs = itertools.pairwise(points)
        (length, size), (far, more) = next((p for p in pairs if tokens <= p[1][0]), (points[-2], points[-1]))
        slope = (more - size) / (far - length)
    beyond = _BEYOND_PROBES if tokens > points[-1][0] else 1.0
    return max(0.0, size + slope * (tokens - length) + square * tokens**2) * beyond


def seen_tokens(card: ModelCard, tokens: int, context_tokens: int) -> int:
    """The keys that a chunk's attention sees at most: all, a window's, or only its own."""
    if any(group.kind == "full" for group in card.caches):
        return context_tokens
    window = max((group.window_tokens for group in card.caches), default=0)
    return min(context_tokens, window - 1 + tokens) if window else tokens


def work_bytes(card: ModelCard, step: Step) -> float:
    """What a step's computation takes beside weights, caches and their copies; no margin counted."""
    keys = seen_tokens(card, step.tokens, step.context_tokens)
    pairs = card.attention_bytes_per_pair * keys
    padding = card.padded_bytes_per_pair * keys if step.padded else 0.0
    if step.kind == "prefill":
        far = step.rows * step.tokens * (card.attention_bytes_per_token + pairs)
        if step.context_tokens > step.tokens and card.chunk_bytes[-1][0] < GROWTH_TOKENS:
            # Of a growing layer the old values wait, which short probes have not seen.
            far += copied_bytes(card, step)
        return max(step.rows * chunk_bytes(card, step.tokens), far) + step.rows * step.tokens * padding
    return step.rows * (card.decode_bytes + pairs + padding)


def copied_bytes(card: ModelCard, step: Step) -> float:
    """What growing and regrouping copy at once."""
    return step.copied_bytes * card.copied_layers


def transient_bytes(card: ModelCard, step: Step) -> int:
    """What a step needs beside weights and caches, margins counted."""
    kept = 2 * step.kept_rows * card.logits_bytes + _SMALL_BYTES
    if step.kind == "prefill":
        return int(max(copied_bytes(card, step), work_bytes(card, step) * card.prefill_margin)) + kept
    work = copied_bytes(card, step) * _COPY_MARGIN + work_bytes(card, step) * card.decode_margin
    return int(max(_LOGIT_ROWS * step.rows * card.logits_bytes, work)) + kept


def step_bytes(card: ModelCard, step: Step) -> int:
    """What a batch takes in a step beside the weights: caches and transients."""
    return step.held_bytes + transient_bytes(card, step)


def life(
    card: ModelCard, rows: Iterable[Row], chunk_tokens: int, prefill_rows: int
) -> Iterator[tuple[Step, int]]:
    """The curve of a batch's memory over its life: each step that can reach a new height, with its bytes.

    Args:
        card: the model.
        rows: every job that shares the batch, with what it has computed, in the order of arrival.
        chunk_tokens: the prefill chunk.
        prefill_rows: how many prompts are computed together at most.
    """
    for step in replay(card.caches, tuple(rows), chunk_tokens, prefill_rows):
        yield step, step_bytes(card, step)


def batch_bytes(card: ModelCard, rows: Sequence[Row], chunk_tokens: int, prefill_rows: int) -> int:
    """The most that a batch takes beside the weights, from now to its end; arguments as for :func:`life`."""
    return _peak(card, tuple(rows), chunk_tokens, prefill_rows)


@lru_cache(maxsize=4096)
def _peak(card: ModelCard, rows: tuple[Row, ...], chunk_tokens: int, prefill_rows: int) -> int:
    return max((size for _, size in life(card, rows, chunk_tokens, prefill_rows)), default=0)


def marginal_bytes(
    card: ModelCard, row: Row, beside: Sequence[Row], chunk_tokens: int, prefill_rows: int
) -> int:
    """What one more row adds to its batch's peak: below 0 never, far more than it needs alone where it is long."""
    with_it = batch_bytes(card, [*beside, row], chunk_tokens, prefill_rows)
    return max(0, with_it - batch_bytes(card, beside, chunk_tokens, prefill_rows))


def alone_bytes(card: ModelCard, row: Row, chunk_tokens: int) -> int:
    """A job's footprint alone, weights counted: what decides whether it could ever run."""
    return card.weights_bytes + batch_bytes(card, [row], chunk_tokens, 1)
