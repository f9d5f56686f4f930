"""How fast a figure grows with time, and how sure that is. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

BLOCKS: Final = 12
"""What follows closely upon another is like it; the means of so many blocks are nearly independent."""

_T_95: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18)
"""Student's t, two-sided 95 %, for 1 to 12 degrees of freedom; more are taken as 12."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth an hour, and the half-width of its 95 % interval; the figure's mean; how many blocks it is fitted to."""

    per_hour: float
    uncertainty: float
    mean: float
    blocks: int

    @property
    def flat(self) -> bool:
        """Whether no growth is seen: the interval reaches down to 0."""
        return self.per_hour - self.uncertainty <= 0

    def shown(self) -> dict[str, float | bool]:
        """As JSON has it."""
        return {
            "mean": round(self.mean),
            "per_hour": round(self.per_hour),
            "uncertainty": round(self.uncertainty),
            "flat": self.flat,
        }


def fit(points: Iterable[tuple[int, float, float]], warm_seconds: float) -> Slope | None:
    """The slope that all processes have in common, each with a level of its own.

    Args:
        points: a process's id, seconds, and the figure, in the order of time; a process that was replaced has another
            id.
        warm_seconds: of each process's first looks, that are left out.

    Returns:
        None where there are fewer than three blocks.
    """
    lives = [list(life) for _, life in groupby(points, key=lambda point: point[0])]
    warm = [[(x, y) for _, x, y in life if x >= life[0][1] + warm_seconds] for life in lives]
    every = sum(map(len, warm))
    size = max(1, every // BLOCKS)
    centred: list[tuple[float, float]] = []
    degrees = -1
    for life in warm:
        blocks = [life[at : at + size] for at in range(0, len(life) - size + 1, size)]
        means = [
            (statistics.fmean(x for x, _ in block), statistics.fmean(y for _, y in block)) for block in blocks
        ]
        if len(means) > 1:  # a single block tells nothing of growth
            centred += _centred(means)
            degrees += len(means) - 1
    if degrees < 1:
        return None
    spread = sum(x * x for x, _ in centred)
    slope = sum(x * y for x, y in centred) / spread
    left = sum((y - slope * x) ** 2 for x, y in centred)
    error = math.sqrt(left / degrees / spread) * _T_95[min(degrees, len(_T_95)) - 1]
    mean = statistics.fmean(y for life in warm for _, y in life)
    return Slope(3600 * slope, 3600 * error, mean, len(centred))


def _centred(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    middle_x = statistics.fmean(x for x, _ in points)
    middle_y = statistics.fmean(y for _, y in points)
    return [(x - middle_x, y - middle_y) for x, y in points]
