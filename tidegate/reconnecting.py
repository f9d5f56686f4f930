"""When a stream that broke is taken up again, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FIRST_SECONDS: Final = 0.5
MOST_SECONDS: Final = 5.0


@dataclass(slots=True)
class Outage:
    """Breaks in a row, with nothing gained in between.

    Args:
        patience_seconds: how long after the first of them there are more tries.
        clock: monotonic seconds.
        first_seconds: to the first of them.
    """

    patience_seconds: float
    clock: Callable[[], float]
    first_seconds: float = FIRST_SECONDS
    _began_at: float | None = None
    _pause_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.over()

    @property
    def began(self) -> bool:
        """Whether there is one."""
        return self._began_at is not None

    def over(self) -> None:
        """Something came."""
        self._began_at, self._pause_seconds = None, self.first_seconds

    def pause(self) -> float | None:
        """Note a break: the seconds to the next try, twice as many each time; None where it is given up."""
        now = self.clock()
        if self._began_at is None:
            self._began_at = now
        left = self._began_at + self.patience_seconds - now
        if left <= 0:
            return None
        pause, self._pause_seconds = self._pause_seconds, min(MOST_SECONDS, 2 * self._pause_seconds)
        return min(pause, left)
