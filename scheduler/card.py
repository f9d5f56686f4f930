"""A model's card: what was measured about it on a host, in bytes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, Final

from pydantic import ConfigDict, TypeAdapter

from scheduler.slots import CacheGroup

CARD_VERSION: Final = 5

MARGIN: Final = 1.15
"""On what a step takes, until a model's own steps have taught a better one."""

_MOST: Final = 10.0
"""More than any margin that is learnt."""


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
        together: (R, S, share) for rows R and some S: of R times a row's first chunk what R together take.
        later_bytes: (S, ``k(S)``, (K, ``T(S, K)``) for a few K ascending) for some S; none where no layer sees a
            context.
        padded_bytes_per_pair: ``p``.
        decode_bytes: ``d``, of one row.
        decode_bytes_per_key: ``c``.
        copied_layers: how many layers' copies are alive at once where caches are copied: about 1 where a layer
            is done before the next begins, up to all of them where a device works behind.
        context_tokens: the model's positions.
        prefill_margin: on prefill's steps, learnt from measured ones.
        decode_margin: on decode's.
        alone: whether its jobs cannot share a batch, so that it runs one at a time.
        fingerprint: of the model's files, MLX's version and the device.
    """

    model: str
    device: str
    weights_bytes: int
    caches: tuple[CacheGroup, ...]
    logits_bytes: int
    chunk_bytes: tuple[tuple[int, int], ...]
    later_bytes: tuple[tuple[int, float, tuple[tuple[int, float], ...]], ...]
    decode_bytes: int
    context_tokens: int
    together: tuple[tuple[int, int, float], ...] = ()
    decode_bytes_per_key: float = 0.0
    padded_bytes_per_pair: float = 0.0
    copied_layers: float = 1.0
    prefill_margin: float = MARGIN
    decode_margin: float = MARGIN
    alone: bool = False
    fingerprint: str = ""
    version: int = CARD_VERSION

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        for lengths in (
            [point[0] for point in self.chunk_bytes],
            [point[0] for point in self.later_bytes],
            [tokens for _, tokens, _ in self.together],
            *([context for context, _ in contexts] for *_, contexts in self.later_bytes),
        ):
            if lengths != sorted(set(lengths)) or (lengths and lengths[0] < 1):
                raise ValueError(f"chunk lengths must ascend: {lengths}")
        if not self.chunk_bytes or not all(contexts for *_, contexts in self.later_bytes):
            raise ValueError("chunk lengths must ascend from a first one")
        figures = [float(figure) for point in self.chunk_bytes for figure in point]
        for _, per_key, contexts in self.later_bytes:
            figures += [per_key, *(size for _, size in contexts)]
        figures += [self.weights_bytes, self.logits_bytes, self.decode_bytes, self.context_tokens - 2]
        figures += [self.decode_bytes_per_key, self.padded_bytes_per_pair, self.copied_layers]
        margins = (self.prefill_margin, self.decode_margin)
        if not all(rows > 1 and share <= 1 <= rows * share for rows, _, share in self.together):
            raise ValueError(f"shares out of range: {self}")
        if not (all(0 <= figure < math.inf for figure in figures) and all(1 <= m <= _MOST for m in margins)):
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
        try:
            return _reader().validate_python(fields)
        except OverflowError as error:
            raise ValueError(f"a figure out of range: {error}") from None


@lru_cache(maxsize=1)
def _reader() -> TypeAdapter[ModelCard]:
    return TypeAdapter(ModelCard)
