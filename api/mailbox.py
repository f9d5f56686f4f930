"""What the reader leaves for one stream: a bounded pile of events, or word that the log must be read."""

from __future__ import annotations

from collections import deque
from queue import Empty, SimpleQueue

from scheduler.events import Kind, LoggedEvent


class Mailbox:
    """Between the one reader and one stream; new, it asks for the log to be read.

    A pile that would outgrow ``capacity`` events is dropped: the log has them all. One thread puts, one takes, and
    neither locks: whoever changes the pile does so before it rings the bell, and whoever heard the bell silences it
    before it looks. A condition in its place took four times as long under gevent.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._events: deque[LoggedEvent] = deque()
        self._stale = True
        self._rung = True
        self._gone: list[LoggedEvent] = []
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._bell.put(None)

    def put(self, event: LoggedEvent) -> None:
        """Leave an event. Where the log is to be read anyway, it will be found there, but not that the log is gone."""
        if event.kind is Kind.DELETED:
            self._gone.append(event)
            self.mark_stale()
            return
        if self._stale:
            return
        if len(self._events) >= self._capacity:
            self.mark_stale()
            return
        self._events.append(event)
        if not self._rung:
            self._ring()

    def mark_stale(self) -> None:
        """Events may have been missed."""
        self._stale = True
        self._events.clear()
        if not self._rung:
            self._ring()

    def take(self, seconds: float) -> list[LoggedEvent] | None:
        """Everything that came, waiting up to ``seconds`` for it; None where the log must be read."""
        try:
            self._bell.get(timeout=seconds)
        except Empty:
            return []
        self._rung = False
        if self._stale:
            self._stale = False
            return self._gone or None
        taken: list[LoggedEvent] = []
        try:
            while True:
                taken.append(self._events.popleft())
        except IndexError:  # and what is put from now on rings again
            return taken

    def _ring(self) -> None:
        self._rung = True
        self._bell.put(None)
