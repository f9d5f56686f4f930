"""A bound on the time that code which came with a model may take, such as a chat template: it may loop for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def processor_seconds(most: float) -> Iterator[None]:
    """Interrupt the block once it took so much of the processor; only in the main thread, as an engine's work is.

    Raises:
        TimeoutError: it did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"it took more than {most:g} s of the processor")

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, most, most)  # again and again: the first may be swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
