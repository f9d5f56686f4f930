"""A model's own steps correct what was foreseen of them: one margin for prefill, one for decode."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from scheduler.card import MARGIN, ModelCard
from scheduler.foresight import Kind

_STEPS_KEPT: Final = 64
_STEPS_ENOUGH: Final = 8
"""Before so many were seen, a margin is not lowered."""

_REST: Final = 1.04
"""On the largest ratio that was met twice: what no step has shown yet."""

_LEAST: Final = 1.05
_MOST: Final = 4.0


@dataclass(slots=True)
class Margins:
    """What one model's steps took over what its card says, margins left aside.

    The second largest ratio of the last steps decides, so that a single outlier changes nothing.
    """

    _ratios: dict[Kind, deque[float]] = field(
        default_factory=lambda: {"prefill": deque(maxlen=_STEPS_KEPT), "decode": deque(maxlen=_STEPS_KEPT)}
    )

    def note(self, kind: Kind, foreseen_bytes: float, measured_bytes: int) -> None:
        """One step: what it was foreseen to take beside the caches, without a margin, and what it took."""
        if foreseen_bytes > 0:
            self._ratios[kind].append(measured_bytes / foreseen_bytes)

    def applied(self, card: ModelCard) -> ModelCard:
        """The card with what was learnt."""
        prefill = self._margin("prefill", card.prefill_margin)
        return replace(card, prefill_margin=prefill, decode_margin=self._margin("decode", card.decode_margin))

    def _margin(self, kind: Kind, before: float) -> float:
        largest = sorted(self._ratios[kind])[-2:]
        if len(largest) < 2:  # noqa: PLR2004 - a pair
            return before
        wanted = min(_MOST, max(_LEAST, largest[0] * _REST))
        if len(self._ratios[kind]) < _STEPS_ENOUGH:
            wanted = max(wanted, before, MARGIN)
        return math.ceil(round(wanted * 100, 6)) / 100
