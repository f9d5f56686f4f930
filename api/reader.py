"""The process's one reader of the steps channel, fanned out to every stream that follows a job.

A stream is registered before it reads the log's backlog, and everyone reads the log again when the
subscription begins (anew), so nothing falls between the two. Numbers that leave a gap, or a pile that
was dropped, also send a stream back to the log. The reader's thread starts with the first stream and
ends some time after the last one; under gevent it is a greenlet.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import structlog
from redis import Redis
from redis.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from api.absence import Absence
from api.mailbox import Mailbox
from scheduler.events import STEPS_CHANNEL, Kind, LoggedEvent, parse_step, read_events

TICK_SECONDS: Final = 1.0
"""How long a stream waits in silence before it looks up: whether its client is there, what time it is."""

REREAD_SECONDS: Final = 10.0
"""After so long in silence a stream reads the log, whatever the channel said."""

_RETRY_READ_SECONDS: Final = 1.0
_PAGE_EVENTS: Final = 500
_QUIET_SECONDS: Final = 15.0  # then the subscription is pinged; silent for as long again, it is dead
_RECONNECT_SECONDS: Final = 0.2
_LINGER_SECONDS: Final = 30.0

log = structlog.get_logger(__name__)


class Reader:
    """Follows job logs.

    Args:
        connection: a client that answers bytes; one of its connections becomes the subscription.
        capacity: events that may wait for one slow stream.
    """

    def __init__(self, connection: Redis, capacity: int = 256) -> None:
        self._connection = connection
        self._capacity = capacity
        self._mailboxes: dict[str, set[Mailbox]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last_left = 0.0
        self._closed = False
        self.absence = Absence("streams")

    @property
    def followed(self) -> int:
        """How many streams there are."""
        with self._lock:
            return sum(len(boxes) for boxes in self._mailboxes.values())

    def follow(self, job_id: str, after: int = 0, until: float = math.inf) -> Iterator[list[LoggedEvent]]:
        """A job's events with numbers above ``after``, up to the one that ends it.

        They come in lists: what there was at one look. A list is empty where a look brought nothing, and after
        each :data:`TICK_SECONDS` of silence. Where the log was deleted, ``deleted`` is the last that comes. While the
        server does not answer there is silence, and then the stream goes on.

        Args:
            job_id: the job; its log need not exist yet.
            after: the newest event already seen.
            until: when to give up, on the monotonic clock.
        """
        mailbox = self._enter(job_id)
        try:
            yield from self._events(job_id, mailbox, after, until)
        finally:
            self._leave(job_id, mailbox)

    def close(self) -> None:
        """End the reader's thread; streams that are open then read the log alone."""
        with self._lock:
            self._closed, thread = True, self._thread
        if thread is not None:
            self._connection.publish(STEPS_CHANNEL, "[]")  # wakes it up
            thread.join(_QUIET_SECONDS)

    def _events(
        self, job_id: str, mailbox: Mailbox, number: int, until: float
    ) -> Iterator[list[LoggedEvent]]:
        reread_at = time.monotonic() + REREAD_SECONDS
        while True:
            now = time.monotonic()
            batch = mailbox.take(max(0.0, min(TICK_SECONDS, until - now)))
            if batch and batch[-1].kind is Kind.DELETED:
                yield batch
                return
            if batch is None or now >= reread_at or not _follows(batch, number):
                batch, reread_at = self._read(job_id, number, mailbox)
            fresh = _fresh(batch, number)
            if fresh:
                number = fresh[-1].number
                yield fresh
                if fresh[-1].ends:
                    return
            if time.monotonic() >= until:
                return
            if fresh:
                reread_at = time.monotonic() + REREAD_SECONDS
            else:
                yield []

    def _read(self, job_id: str, number: int, mailbox: Mailbox) -> tuple[list[LoggedEvent], float]:
        """A page of the log, and when to read it next."""
        try:
            events = read_events(self._connection, job_id, number, _PAGE_EVENTS)
        except RedisError:
            return [], time.monotonic() + _RETRY_READ_SECONDS
        if len(events) == _PAGE_EVENTS:
            mailbox.mark_stale()
        return events, time.monotonic() + REREAD_SECONDS

    def _enter(self, job_id: str) -> Mailbox:
        mailbox = Mailbox(self._capacity)
        with self._lock:
            self._mailboxes.setdefault(job_id, set()).add(mailbox)
            alive = self._thread is not None and self._thread.is_alive()  # a fork leaves a dead one
            if not (alive or self._closed):
                self._thread = threading.Thread(target=self._run, name="steps-reader", daemon=True)
                self._thread.start()
        return mailbox

    def _leave(self, job_id: str, mailbox: Mailbox) -> None:
        with self._lock:
            self._mailboxes[job_id].discard(mailbox)
            if not self._mailboxes[job_id]:
                del self._mailboxes[job_id]
            self._last_left = time.monotonic()

    def _run(self) -> None:
        while self._wanted():
            try:
                self._listen()
                return  # nobody followed: who comes now has another thread
            except Exception as error:  # noqa: BLE001 (whatever it was, every stream lives on the next try)
                self.absence.goes_on(error)
                time.sleep(_RECONNECT_SECONDS)

    def _listen(self) -> None:
        with contextlib.closing(PubSub(self._connection.connection_pool)) as channel:
            channel.subscribe(STEPS_CHANNEL)
            pinged = False
            while self._wanted():
                message: dict[str, Any] | None = channel.get_message(timeout=_QUIET_SECONDS)
                if message is not None:
                    pinged = False
                    self._receive(message)
                elif pinged:
                    raise RedisConnectionError("no answer to a ping")
                else:
                    channel.ping()
                    pinged = True

    def _wanted(self) -> bool:
        """Whether anyone follows, or did until just now; if not, the thread ends."""
        with self._lock:
            followed = bool(self._mailboxes) or time.monotonic() - self._last_left < _LINGER_SECONDS
            wanted = followed and not self._closed
            if not wanted:
                self._thread = None
            return wanted

    def _receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self.absence.over()
            with self._lock:
                for boxes in self._mailboxes.values():
                    for mailbox in boxes:
                        mailbox.mark_stale()
        elif message["type"] == "message" and self._mailboxes:
            self._deliver(message["data"])

    def _deliver(self, payload: bytes) -> None:
        try:
            step = parse_step(payload, self._mailboxes)  # what nobody follows is not taken apart
        except ValueError:
            log.warning("message on the steps channel not understood")
            return
        with self._lock:
            for job_id, event in step:
                for mailbox in self._mailboxes.get(job_id, ()):
                    mailbox.put(event)


def _follows(batch: list[LoggedEvent], number: int) -> bool:
    """Whether what is new in the batch goes on after ``number`` without a gap, and without an end.

    An end is believed from the log alone: a worker that had lost a job can announce one that it did not make.
    """
    for event in batch:
        if event.ends or event.number > number + 1:
            return False
        number = max(number, event.number)
    return True


def _fresh(batch: list[LoggedEvent], number: int) -> list[LoggedEvent]:
    """What of the batch is above ``number``, up to the event that ends the log."""
    fresh: list[LoggedEvent] = []
    for event in batch:
        if event.number > number:  # one that was told twice counts once
            fresh.append(event)
            number = event.number
            if event.ends:
                break
    return fresh
