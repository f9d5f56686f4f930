"""The one place where tests let time pass."""

import time
from collections.abc import Callable


def wait_until(predicate: Callable[[], object], description: str, seconds: float = 10.0) -> None:
    """Poll until ``predicate`` is true; fail, saying what was waited for, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {description}")
        time.sleep(0.01)
