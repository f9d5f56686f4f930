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
from api.watching import watch
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent

EVENT_STREAM: Final = "text/event-stream"
HEARTBEAT_SECONDS: Final = 10.0
HEARTBEAT: Final = b": still here\n\n"
DONE: Final = b"data: [DONE]\n\n"
_RETRY: Final = b"retry: 1000\n\n"  # also sends the headers on their way before the first event

log = structlog.get_logger(__name__)


def data_event(data: Any) -> bytes:
    """An event of OpenAI's kind: data and nothing else."""
    return f"data: {to_json(data)}\n\n".encode()


def named_event(number: int, kind: str, data: Any) -> bytes:
    """An event that a client can go on after."""
    return f"id: {number}\nevent: {kind}\ndata: {to_json(data)}\n\n".encode()


def stream_answer(chunks: Iterator[bytes], on_close: Callable[[], None] | None = None) -> Response:
    """The streaming answer. ``on_close`` runs when it ends, however it ends."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    said = Response(chunks, 200, headers, mimetype=EVENT_STREAM)
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
    """A job's events above ``after``, then ``[DONE]``. It ends early where the client went away."""
    yield _RETRY
    pulse = Pulse()
    try:
        for event in watch(here, job_id, after):
            if event is None:
                if gone():
                    return
                if pulse.due:
                    yield HEARTBEAT
                continue
            pulse.beat()
            yield named_event(event.number, event.kind.value, _wire_data(here, job_id, event))
    except ClientError as error:  # the job was deleted while it was followed
        yield f"event: error\n{data_event({'error': error.body()}).decode()}".encode()
    except (RedisError, StoreUnavailable):  # the client comes back after the last event that it saw
        log.warning("job stream cut short", job=job_id)
        return
    yield DONE


def _wire_data(here: Services, job_id: str, event: LoggedEvent) -> dict[str, Any]:
    """What clients see of an event: no token ids; text in every delta; the job itself where it ended."""
    if event.ends:
        return here.lifecycle.view(here.lifecycle.get(job_id))
    if event.kind is Kind.DELTA:
        said = {name: event.data[name] for name in ("reasoning", "logprobs") if name in event.data}
        return {"text": event.data.get("text", "")} | said
    return {name: value for name, value in event.data.items() if name != "tokens"}
