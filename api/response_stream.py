"""A response's stream over HTTP: its events as they come, from the first or from behind one on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import structlog
from redis.exceptions import RedisError

from api.answers import to_json
from api.errors import store_unavailable
from api.presence import Gone
from api.response_events import ResponseEvents
from api.response_note import ResponseNote
from api.sse import HEARTBEAT, Pulse
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent
from scheduler.record import JobRecord

log = structlog.get_logger(__name__)


def response_stream(
    rec: JobRecord,
    note: ResponseNote,
    looks: Iterable[list[LoggedEvent]],
    gone: Gone,
    *,
    ended: Callable[[], JobRecord],
    after: int = -1,
) -> Iterator[bytes]:
    """A response's events with numbers above ``after``. It ends early where the client went away.

    Args:
        rec: its job.
        note: what was noted of it.
        looks: the job's log from its first event on, as :func:`api.watching.watch` reads it.
        gone: whether the client is there no more; asked in silence.
        ended: reads the job once its end is in the log.
        after: the number of the newest event that the client has seen.
    """
    events, pulse = ResponseEvents(rec, note, ended), Pulse()
    yield HEARTBEAT  # the headers go on their way, though all there is may have been seen
    try:
        for look in looks:
            made = [event for logged in look for event in events.take(logged)]
            if said := b"".join([_wire(event) for event in made if event["sequence_number"] > after]):
                pulse.beat()
                yield said
            elif gone():
                return
            elif pulse.due:
                yield HEARTBEAT
    except ClientError as error:  # the job was deleted while it was followed
        yield _error(error, max(after, events.count - 1))
    except (RedisError, StoreUnavailable):
        log.warning("response stream cut short", job=rec.id)
        yield _error(store_unavailable(), max(after, events.count - 1))


def up_to_first_text(
    looks: Iterable[list[LoggedEvent]], gone: Gone, hold_seconds: float
) -> tuple[list[LoggedEvent], bool]:
    """What the looks brought up to the first text or the end, or until ``hold_seconds`` passed.

    Returns:
        The events, and whether the job ended without a text.
    """
    until = time.monotonic() + hold_seconds
    found: list[LoggedEvent] = []
    for look in looks:
        found += look
        if any(event.kind is Kind.DELTA for event in look):
            break
        if look and look[-1].ends:
            return found, True
        if time.monotonic() >= until or gone():
            break
    return found, False


def _wire(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {to_json(event)}\n\n".encode()


def _error(error: ClientError, number: int) -> bytes:
    """An error of the stream, not of the response: it has the number of the event before it.

    So a client that comes back after it misses nothing.
    """
    fields = {"code": error.code, "message": error.message, "param": error.param}
    return _wire({"type": "error", "sequence_number": max(0, number), **fields})
