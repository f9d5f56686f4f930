"""How long those who were refused would truly have had to wait for a place: seen afterwards, from how many jobs started. Pure.

Whoever is refused is told when as many waiting jobs will have started as must before there is a place
(:class:`scheduler.room.Full`). That many are waited for here, whether or not the client comes back: what it should have been
told is known when they have started, which the workers' reports tell.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

REMEMBERED_MOST: Final = 1024
REMEMBERED_SECONDS: Final = 900.0
WORKERS_MOST: Final = 256
"""Those whose counts are known, the latest; one whose lease lapsed comes back with all that it ever counted."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    at: float
    """Unix seconds."""
    starts: float
    """How many jobs will have started in all, since this began to look, when there is a place for it."""


class Needed:
    """One process's refusals that wait for their truth, the latest :data:`REMEMBERED_MOST` of them."""

    def __init__(self) -> None:
        self._refusals: deque[_Refusal] = deque(maxlen=REMEMBERED_MOST)
        self._started = OrderedDict[str, int]()
        """By worker, those that are gone among them."""
        self._watched = False
        """Whether any was there at the last look."""
        self._seen_at = 0.0
        self._total = 0
        self._turn = threading.Lock()

    def refused(self, starts: int, now: float) -> None:
        """A submission was refused: so many jobs must start first."""
        with self._turn:
            if self._watched:  # else nothing is known of starts, and never of this one
                self._refusals.append(_Refusal(now, self._total + starts))

    def saw(self, started: Mapping[str, int | None], now: float) -> list[float]:
        """Look at the workers.

        Args:
            started: by live worker, how many jobs it took from the queue, less those that it put back; None where it
                does not say, as an earlier release's does not: then nothing is known of the refusals before.
            now: Unix seconds.

        Returns:
            Of the refusals whose jobs have started since the last look, the seconds that were needed.
        """
        with self._turn:
            before, since, fresh = self._total, self._seen_at, self._fresh(started)
            self._seen_at, self._total = now, before + fresh
            if not self._watched or None in started.values():
                self._refusals.clear()
            return self._done(before, since, now)

    def _fresh(self, started: Mapping[str, int | None]) -> int:
        """How many started since the last look."""
        fresh, watched = 0, self._watched
        for name, count in started.items():
            if count is None:
                continue
            # Where nobody was looked at before, all that a new one did may have been done then.
            fresh += count - self._started.get(name, 0 if watched else count)
            self._started[name] = count
            self._started.move_to_end(name)
        while len(self._started) > max(WORKERS_MOST, len(started)):
            self._started.popitem(last=False)
        self._watched = any(count is not None for count in started.values())
        return fresh

    def _done(self, before: int, since: float, now: float) -> list[float]:
        """The seconds of those that have their place, which are then forgotten; of a total that was ``before``."""
        fresh = self._total - before
        done: list[float] = []
        left: list[_Refusal] = []
        for each in self._refusals:
            if self._total >= each.starts:
                share = (each.starts - before) / fresh if fresh > 0 else 1.0
                moment = since + min(1.0, max(0.0, share)) * (now - since)
                done.append(max(0.0, moment - each.at))
            elif now - each.at <= REMEMBERED_SECONDS:
                left.append(each)
        self._refusals = deque(left, maxlen=REMEMBERED_MOST)
        return done
