"""What the reader leaves for one stream: a bounded pile of events, or word that the log must be read."""

from __future__ import annotations

import threading
from collections import deque

from scheduler.events import LoggedEvent


class Mailbox:
    """Between the one reader and one stream; new, it asks for the log to be read.

    A pile that would outgrow ``capacity`` events is dropped: the log has them all.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._events: deque[LoggedEvent] = deque()
        self._stale = True
        self._changed = threading.Condition()

    def put(self, event: LoggedEvent) -> None:
        """Leave an event. Where the log is to be read anyway, it will be found there."""
        with self._changed:
            if self._stale:
                return
            if len(self._events) >= self._capacity:
                self._drop()
            else:
                self._events.append(event)
            self._changed.notify()

    def mark_stale(self) -> None:
        """Events may have been missed."""
        with self._changed:
            self._drop()
            self._changed.notify()

    def take(self, seconds: float) -> list[LoggedEvent] | None:
        """Everything that came, waiting up to ``seconds`` for it; None where the log must be read."""
        with self._changed:
            if not self._stale and not self._events:
                self._changed.wait(seconds)
            if self._stale:
                self._stale = False
                return None
            events = list(self._events)
            self._events.clear()
            return events

    def _drop(self) -> None:
        self._events.clear()
        self._stale = True
