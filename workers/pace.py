"""How fast tokens come, and how often engines die. Pure: the clock is an argument."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Final

_WINDOW_SECONDS: Final = 30.0

DEATHS_MOST: Final = 5
DEATHS_SECONDS: Final = 60.0
COOLDOWN_SECONDS: Final = 30.0


class Pace:
    """Tokens a second over the last half minute in which there was work.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: collections.deque[tuple[float, int]] = collections.deque()
        self._last_rate = 0.0

    def count(self, tokens: int) -> None:
        """Note tokens that were just made."""
        self._counts.append((self._clock(), tokens))

    @property
    def tokens_per_second(self) -> float:
        """The rate; what it last was while nothing is made; 0 before anything was."""
        now = self._clock()
        while self._counts and now - self._counts[0][0] > _WINDOW_SECONDS:
            self._counts.popleft()
        if len(self._counts) > 1:
            span = self._counts[-1][0] - self._counts[0][0]
            made = sum(tokens for _, tokens in self._counts) - self._counts[0][1]
            self._last_rate = made / span if span > 0 else self._last_rate
        return self._last_rate


class Breaker:
    """Stops a crash loop: after too many deaths in a while, nothing starts until it cooled down.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deaths: collections.deque[float] = collections.deque(maxlen=DEATHS_MOST)
        self._open_until = 0.0

    def died(self) -> None:
        """Note a death."""
        now = self._clock()
        self._deaths.append(now)
        if len(self._deaths) == DEATHS_MOST and now - self._deaths[0] < DEATHS_SECONDS:
            self._open_until = now + COOLDOWN_SECONDS
            self._deaths.clear()

    @property
    def open(self) -> bool:
        """Whether to wait."""
        return self._clock() < self._open_until
