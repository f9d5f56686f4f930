"""The one place where tests let time pass, or turn it."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Clock:
    """Seconds that stand still until a test moves them; unless it says otherwise, Unix time."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def wait_until(predicate: Callable[[], object], description: str, seconds: float = 10.0) -> None:
    """Poll until ``predicate`` is true; fail, saying what was waited for, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {description}")
        time.sleep(0.01)
