"""Stops a crash loop of engines. Pure: the clock is an argument."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Final

DEATHS_MOST: Final = 10
"""Deaths within :data:`DEATHS_SECONDS` that are a crash loop. One job that kills engines is found after eight in a
full batch of 32 (:mod:`scheduler.blame`): such a search is none."""

DEATHS_SECONDS: Final = 300.0
"""An engine starts in seconds, and loads a model in some tens of them: one that dies of that comes round so often."""

COOLDOWN_SECONDS: Final = 30.0

HALF_OPEN_SECONDS: Final = 60.0
"""How long after a cooldown one more death is enough: what was wrong still is."""


class Breaker:
    """Whether engines die so often that none is to be started for a while.

    Closed, it counts deaths; after too many of them it is open until it has cooled down; for a while after that it is
    half open: one more death opens it again, and where none comes it counts anew.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deaths: collections.deque[float] = collections.deque(maxlen=DEATHS_MOST)
        self._open_until = self._half_open_until = float("-inf")

    def died(self) -> None:
        """Note a death."""
        now = self._clock()
        self._deaths.append(now)
        often = len(self._deaths) == DEATHS_MOST and now - self._deaths[0] < DEATHS_SECONDS
        if often or now < self._half_open_until:
            self._open_until = now + COOLDOWN_SECONDS
            self._half_open_until = self._open_until + HALF_OPEN_SECONDS
            self._deaths.clear()

    @property
    def open(self) -> bool:
        """Whether to wait."""
        return self.open_seconds > 0

    @property
    def open_seconds(self) -> float:
        """For how long to wait; 0 where there is no need to."""
        return max(0.0, self._open_until - self._clock())
