"""What is said where an answer is slow to begin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from scheduler.job import TERMINAL
from tidegate.sse import ServerSentEvent


def telling(
    events: Iterable[ServerSentEvent], seconds: float, tell: Callable[[], None]
) -> Iterator[ServerSentEvent]:
    """The events as they come; ``tell`` is called, in a thread, where no text comes within ``seconds``."""
    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        for event in events:
            if event.name == "delta" or event.name in TERMINAL:
                timer.cancel()
            yield event
    finally:
        timer.cancel()
