"""Running counts of one process, small enough to travel in a worker's report, and read back from there. Pure.

What is counted, and under which labels, stands in :mod:`scheduler.measures`. In JSON a count is a number, and a
distribution ``[sum, n, n, …]``: the values in each bucket of its family, those beyond the last bound at the end. Either stands
under its labels' values, joined by bars: ``{"claims": {"interactive": 3}, "wait_seconds": {"batch": [7.5, 0, 2, …]}}``.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from scheduler.measures import MEASURES, Family, code_of
from scheduler.outcome import Outcome

Labels = tuple[str, ...]

_BAR: Final = "|"
_MOST: Final = 1 << 53
"""As many as a float counts exactly."""

_SERIES_MOST: Final = 1024
"""Of one family in one report."""


@dataclass(slots=True)
class Spread:
    """A distribution: the sum of all values, and how many are in each bucket, beyond the last bound at the end."""

    total: float
    counts: list[int]


@dataclass(slots=True)
class Tally:
    """What one process counted since it began: it only grows. Threads may share it."""

    counts: dict[str, dict[Labels, int]] = field(default_factory=dict)
    spreads: dict[str, dict[Labels, Spread]] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Count something, so many times; ``labels`` are the family's, in its order."""
        with self._turn:
            series = self.counts.setdefault(name, {})
            series[labels] = series.get(labels, 0) + by

    def note(self, name: str, value: float, *labels: str) -> None:
        """Note a value, in the family's unit; a negative one, as clocks of two hosts may bring it, counts as 0."""
        bounds, value = MEASURES[name].bounds, max(0.0, value)
        with self._turn:
            series = self.spreads.setdefault(name, {})
            spread = series.get(labels)
            if spread is None:
                spread = series[labels] = Spread(0.0, [0] * (len(bounds) + 1))
            spread.total += value
            spread.counts[bisect_left(bounds, value)] += 1

    def ended(self, outcome: Outcome) -> None:
        """Count how a job ended, and what its client was told of coming again."""
        code = code_of(outcome.error)
        self.count("jobs_ended", outcome.state.value, code)
        self.told((outcome.error or {}).get("retry_after"), code)

    def told(self, retry_after: Any, code: str) -> None:
        """Note what a client was told of coming again, if it was."""
        if isinstance(retry_after, int | float):
            self.note("retry_after_told_seconds", retry_after, code)

    def dump(self) -> dict[str, dict[str, Any]]:
        """As JSON has it."""
        said: dict[str, dict[str, Any]] = {
            "claims": {}
        }  # of one that took none it is known that it took none
        with self._turn:
            for name, counts in self.counts.items():
                said[name] = {_BAR.join(labels): count for labels, count in counts.items()}
            for name, spreads in self.spreads.items():
                said[name] = {
                    _BAR.join(labels): [round(each.total, 6), *each.counts]
                    for labels, each in spreads.items()
                }
        return said

    @classmethod
    def read(cls, said: Any, models: Collection[str]) -> Tally:
        """What :meth:`dump` wrote, of those families and labels that workers of this release have.

        Whoever writes to the server may have written it: what is something else is left out.

        Args:
            said: from a report.
            models: those whose series are wanted.
        """
        found = cls()
        for name, family in MEASURES.items():
            if family.by_workers:
                for labels, value in _series(family, said, name, models):
                    if not family.bounds and _is_count(value):
                        found.counts.setdefault(name, {})[labels] = value
                    elif family.bounds and (spread := _spread(value, len(family.bounds))) is not None:
                        found.spreads.setdefault(name, {})[labels] = spread
        return found

    def total(self, name: str) -> int:
        """A count over all its labels."""
        return sum(self.counts.get(name, {}).values())


def _series(family: Family, said: Any, name: str, models: Collection[str]) -> Iterator[tuple[Labels, Any]]:
    entries = said.get(name) if isinstance(said, Mapping) else None
    if not isinstance(entries, Mapping) or len(entries) > _SERIES_MOST:
        return
    for key, value in entries.items():
        # A model's name, which comes last, may have bars.
        labels = tuple(key.split(_BAR, len(family.labels) - 1)) if family.labels else ()
        if len(labels) == len(family.labels) and all(
            value in (models if label == "model" else family.values[label])
            for label, value in zip(family.labels, labels, strict=True)
        ):
            yield labels, value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _spread(value: Any, bounds: int) -> Spread | None:
    if not isinstance(value, list) or len(value) != bounds + 2 or not all(map(_is_count, value[1:])):
        return None
    total = value[0]
    sound = (
        isinstance(total, int | float) and not isinstance(total, bool) and math.isfinite(total) and total >= 0
    )
    return Spread(float(total), value[1:]) if sound else None


def started_by(said: Any) -> int | None:
    """How many jobs a worker took from the queue, less those that it put back, by its report; None where it does not say."""
    claims, requeues = (
        said.get(name) if isinstance(said, Mapping) else None for name in ("claims", "requeues")
    )
    return _sum(claims) - _sum(requeues) if isinstance(claims, Mapping) else None


def _sum(counts: Any) -> int:
    return sum(filter(_is_count, counts.values())) if isinstance(counts, Mapping) else 0
