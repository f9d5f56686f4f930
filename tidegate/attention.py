"""Events that are waited for while something else is looked at: a stream that is silent keeps nobody from anything."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

Item = TypeVar("Item")

_END: Final = object()


class _Failure:
    """What the iterator raised, on its way to who waits."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def attended(items: Iterator[Item], look: Callable[[], None], seconds: float) -> Iterator[Item]:
    """The items as they come, read in a thread of their own; ``look`` is called meanwhile, in the caller's.

    Args:
        items: may block, and may raise: that is raised here. Left in the middle, it is read no further than the next item.
        look: called before the first item is waited for, and whenever none came for so long; what it raises ends this.
        seconds: between two looks.
    """
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    left = threading.Event()

    def read() -> None:
        try:
            for item in items:
                inbox.put(item)
                if left.is_set():
                    return
            inbox.put(_END)
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits
            inbox.put(_Failure(error))

    threading.Thread(target=read, daemon=True, name="stream").start()
    try:
        look()
        while True:
            try:
                came = inbox.get(timeout=seconds)
            except queue.Empty:
                look()
                continue
            if came is _END:
                return
            if isinstance(came, _Failure):
                raise came.error
            yield came  # type: ignore[misc]  # whatever else is in it is an item
    finally:
        left.set()
