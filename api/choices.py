"""The jobs that make the choices of one answer, whole or as a stream, in the shape of their route.

Nobody can come back to such a job, so it is cancelled when its client goes away. Of several jobs all are answered or
none: where one is refused or fails, the others are cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

from flask import Response
from redis.exceptions import RedisError

from api.answers import answer
from api.attended import CLIENT_CLOSED, HOLD_SECONDS, Attended
from api.errors import error_answer, store_unavailable
from api.gathering import Look, gather
from api.outcomes import failure
from api.presence import Gone
from api.reader import TICK_SECONDS
from api.services import services
from api.sse import DONE, HEARTBEAT, Pulse, data_event, stream_answer
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent
from scheduler.record import JobRecord
from scheduler.request import JobRequest


class ChoiceChunks(Protocol):
    """One job's part of a stream, each piece of it as the events that carry it."""

    def first(self) -> bytes:
        """What comes before any text."""

    def delta(self, data: dict[str, Any]) -> bytes:
        """What an event of the job's log brought."""

    def last(self, rec: JobRecord) -> bytes:
        """What comes after the text of a job that has a result."""


class Shape(Protocol):
    """How a route writes what its jobs bring; they are in the order of its choices."""

    def whole(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """The ended jobs as one answer."""

    def chunks(self, records: Sequence[JobRecord]) -> Sequence[ChoiceChunks]:
        """Each job's part of the stream."""

    def counted(self, records: Sequence[JobRecord]) -> bytes:
        """What follows the last job's end."""


def attend(requests: Sequence[JobRequest], shape: Shape, *, streaming: bool) -> Response:
    """Submit jobs, and answer with what becomes of them.

    Raises:
        ClientError: one of them is refused; there is none then.
    """
    choices = Choices(services())
    try:
        for request in requests:
            choices.submit(request)
        return _streaming(choices, shape) if streaming else _waiting(choices, shape)
    except BaseException:  # the server may be stopping
        choices.leave()
        raise


class Choices(Attended):
    """The jobs of an answer's choices."""

    def looks(self) -> Iterator[Look]:
        """Their events, as they come."""
        return gather(self.here, [rec.id for rec in self.records])


def _waiting(choices: Choices, shape: Shape) -> Response:
    look_at = time.monotonic() + TICK_SECONDS
    for place, events in choices.looks():
        if not events or time.monotonic() >= look_at:
            if choices.gone():
                choices.leave(back_soon=True)
                return Response(status=CLIENT_CLOSED)
            look_at = time.monotonic() + TICK_SECONDS
        if events and events[-1].ends and (error := failure(choices.ended(place))) is not None:
            return _refused(choices, error)
    return answer(shape.whole(choices.records), headers=choices.headers)


def _streaming(choices: Choices, shape: Shape) -> Response:
    looks = choices.looks()
    place, first = _first_of_note(looks, choices.gone)
    if _nothing_but_the_end(first) and (error := failure(choices.ended(place))) is not None:
        return _refused(choices, error)
    if choices.gone():
        choices.leave(back_soon=True)
        return Response(status=CLIENT_CLOSED)
    events = _events(choices, shape, chain([(place, first)], looks))
    stream = stream_answer(events, on_close=choices.leave)
    stream.headers.update(choices.headers)
    return stream


def _refused(choices: Choices, error: ClientError) -> Response:
    """The error that one job ended with; the others are not wanted any more."""
    choices.leave()
    said = error_answer(error)
    said.headers.update(choices.headers)
    return said


def _first_of_note(looks: Iterator[Look], gone: Gone) -> Look:
    """What a look brought that has the first text or an end; nothing where neither came in time."""
    until = time.monotonic() + HOLD_SECONDS
    for place, events in looks:
        if any(event.kind is Kind.DELTA or event.ends for event in events):
            return place, events
        if time.monotonic() >= until or gone():
            break
    return 0, []


def _nothing_but_the_end(events: list[LoggedEvent]) -> bool:
    """Whether a job ended without a text."""
    return any(event.ends for event in events) and not any(event.kind is Kind.DELTA for event in events)


def _events(choices: Choices, shape: Shape, looks: Iterator[Look]) -> Iterator[bytes]:
    parts, pulse = shape.chunks(choices.records), Pulse()
    yield b"".join(part.first() for part in parts)
    try:
        for place, events in looks:
            part = parts[place]
            if said := b"".join([part.delta(event.data) for event in events if event.kind is Kind.DELTA]):
                pulse.beat()
                yield said
            if events and events[-1].ends:
                rec = choices.ended(place)
                if (error := failure(rec)) is not None:
                    choices.leave()
                    yield data_event({"error": error.body()})
                    break
                yield part.last(rec)
            elif not said:
                if choices.gone():
                    return
                if pulse.due:
                    yield HEARTBEAT
        else:
            yield shape.counted(choices.records)
    except ClientError as error:  # a job was deleted meanwhile
        yield data_event({"error": error.body()})
    except (RedisError, StoreUnavailable):
        yield data_event({"error": store_unavailable().body()})
    yield DONE
