"""Server-sent events: their bytes, the answer that carries them, and a job's own stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog
from flask import Response
from redis.exceptions import RedisError

from api.answers import to_json
from api.presence import Gone
from api.services import Services
from api.staying import while_staying
from api.watching import watch
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent

EVENT_STREAM: Final = "text/event-stream"
HEARTBEAT_SECONDS: Final = 10.0
HEARTBEAT: Final = b": still here\n\n"
DONE: Final = b"data: [DONE]\n\n"
RETRY: Final = b"retry: 1000\n\n"  # also sends the headers on their way before the first event

log = structlog.get_logger(__name__)


def data_event(data: Any) -> bytes:
    """An event of OpenAI's kind: data and nothing else."""
    return f"data: {to_json(data)}\n\n".encode()


def named_event(number: int, kind: str, data: Any) -> bytes:
    """An event that a client can go on after."""
    return f"id: {number}\nevent: {kind}\ndata: {to_json(data)}\n\n".encode()


def stream_answer(chunks: Iterator[bytes], on_close: Callable[[], None] | None = None) -> Response:
    """The streaming answer, for as long as its client may stay. ``on_close`` runs when it ends, however it ends."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    said = Response(while_staying(chunks), 200, headers, mimetype=EVENT_STREAM)
    if on_close is not None:
        said.call_on_close(on_close)
    return said


class Pulse:
    """When a stream that has nothing to say must say so."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def beat(self) -> None:
        """Something was sent."""
        self._said_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for a heartbeat; counts it as sent."""
        if time.monotonic() - self._said_at < HEARTBEAT_SECONDS:
            return False
        self.beat()
        return True


def job_stream(here: Services, job_id: str, after: int, gone: Gone) -> Iterator[bytes]:
    """A job's events above ``after``, then ``[DONE]``. It ends early where the client went away.

    Where the job was deleted, an event named ``error`` says so before.
    """
    yield RETRY
    pulse = Pulse()
    try:
        for events in watch(here, job_id, after):
            told = [event for event in events if event.kind is not Kind.OTHER]
            if said := b"".join([_wire(here, job_id, event) for event in told]):
                pulse.beat()
                yield said
            elif gone():
                return
            elif pulse.due:
                yield HEARTBEAT
    except ClientError as error:  # the job was deleted while it was followed
        yield f"event: error\n{data_event({'error': error.body()}).decode()}".encode()
    except (RedisError, StoreUnavailable):  # the client comes back after the last event that it saw
        log.warning("job stream cut short", job=job_id)
        return
    yield DONE


def _wire(here: Services, job_id: str, event: LoggedEvent) -> bytes:
    """What clients see of an event: no token ids; text in every delta; the job itself where it ended."""
    data = event.data
    if event.kind is Kind.DELTA:  # nearly all are, and nearly all of them have text alone
        said = f'"text":{to_json(data.get("text", ""))}'
        if "reasoning" in data or "logprobs" in data:
            more = {name: data[name] for name in ("reasoning", "logprobs") if name in data}
            said += f",{to_json(more)[1:-1]}"
        return f"id: {event.number}\nevent: delta\ndata: {{{said}}}\n\n".encode()
    if event.ends:
        data = here.lifecycle.view(here.lifecycle.get(job_id))
        data = data | {"at": data["completed_at"]}
    else:
        data = {name: value for name, value in data.items() if name != "tokens"}
    return named_event(event.number, event.kind.value, data)
