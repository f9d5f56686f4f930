"""Listening to an engine while its worker waits for the store: what it says is kept, up to a bound.

Without it the engine would stand still as soon as its pipe is full, which at a few hundred bytes a step is at once.
What is kept is bytes, not yet taken apart. At the bound nobody reads any more, the pipe fills, and the engine waits in
its next word until the store is back: it computes nothing that nobody could keep.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from workers.wire import Receiver

KEPT_MOST_BYTES: Final = 16 << 20
"""About 180,000 tokens, at 90 bytes each; one read more may come on top."""


@contextmanager
def overhearing(receiver: Receiver, most_bytes: int = KEPT_MOST_BYTES) -> Iterator[None]:
    """Take in what the engine says while the block runs; the receiver is this thread's until then.

    Args:
        receiver: the engine's pipe. It has what was taken in, and finds the pipe's end itself.
        most_bytes: how much is kept unread.
    """
    wake_read, wake_write = os.pipe()

    def listen() -> None:
        while receiver.unread_bytes < most_bytes:
            ready, _, _ = select.select([receiver.fileno(), wake_read], [], [])
            if wake_read in ready or not receiver.take_in():
                return

    listener = threading.Thread(target=listen, name="overhearing", daemon=True)
    listener.start()
    try:
        yield
    finally:
        os.close(wake_write)  # the other end is readable from now on
        listener.join()
        os.close(wake_read)
