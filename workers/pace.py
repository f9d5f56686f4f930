"""How fast loops and tokens come, and how often engines die. Pure: the clock is an argument."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Final

from scheduler.forecast import Rates

_WINDOW_SECONDS: Final = 30.0
_WINDOW: Final = 512
_PAUSE_SECONDS: Final = 10.0

_NEWEST: Final = 0.1
"""What the latest loop counts for: about the last ten decide."""

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
        self._counted_at: float | None = None

    def count(self, tokens: int) -> None:
        """Note tokens that were just made; the time since the last ones is theirs, a pause is nobody's."""
        now = self._clock()
        if self._counted_at is not None and now - self._counted_at < _PAUSE_SECONDS:
            self._counts.append((now - self._counted_at, tokens))
            while (
                sum(seconds for seconds, _ in self._counts) > _WINDOW_SECONDS or len(self._counts) > _WINDOW
            ):
                self._counts.popleft()
        self._counted_at = now

    @property
    def tokens_per_second(self) -> float:
        """The rate; what it last was while nothing is made; 0 before anything was."""
        seconds = sum(seconds for seconds, _ in self._counts)
        return sum(tokens for _, tokens in self._counts) / seconds if seconds > 0 else 0.0


class Loops:
    """What the engine's loops take: the base of every promise."""

    def __init__(self) -> None:
        self._step_seconds: float | None = None
        self._prompt_token_seconds = 0.0

    def note(self, seconds: float, prompt_tokens: int) -> None:
        """One loop, in which so many tokens of prompts were computed beside the decode step."""
        step = self._step_seconds or 0.0
        if not prompt_tokens:
            self._step_seconds = seconds if self._step_seconds is None else step + _NEWEST * (seconds - step)
            return
        each = max(0.0, seconds - step) / prompt_tokens
        before = self._prompt_token_seconds
        self._prompt_token_seconds = before + _NEWEST * (each - before) if before else each

    @property
    def rates(self) -> Rates | None:
        """The last loops'; None before a decode step and a prompt were seen."""
        if self._step_seconds is None or not self._prompt_token_seconds:
            return None
        return Rates(self._step_seconds, self._prompt_token_seconds)


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
