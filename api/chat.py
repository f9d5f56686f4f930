"""`/v1/chat/completions`: a job whose client waits for it, in OpenAI's shapes.

Nobody can come back to such a job, so it is cancelled when its client goes away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import chain
from typing import Final

import structlog
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from redis.exceptions import RedisError

from api.answers import answer
from api.chat_answer import Chunks, completion
from api.chat_request import ChatRequest
from api.errors import error_answer, store_unavailable
from api.outcomes import failure
from api.presence import Gone, client_gone, comes_again
from api.schemas import ChatCompletion
from api.services import Services, services
from api.spec import ERRORS, streams
from api.sse import DONE, HEARTBEAT, Pulse, data_event, stream_answer
from api.watching import await_job, watch
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent
from scheduler.job import TERMINAL
from scheduler.owner import owner_of
from scheduler.record import JobRecord

HOLD_SECONDS: Final = 10.0
"""How long a stream's answer is held back for its first text, so that a job which fails before it fails
as an HTTP error, which clients retry by themselves."""

_CLIENT_CLOSED: Final = 499  # nginx's, for the log: nobody reads it

routes = APIBlueprint("chat", __name__, abp_tags=[Tag(name="openai")], abp_responses=ERRORS)
log = structlog.get_logger(__name__)


@routes.post("/v1/chat/completions", responses={200: streams(ChatCompletion)})
def complete(body: ChatRequest) -> Response:
    """Complete a chat, as OpenAI's route of this name does."""
    here = services()
    owner = owner_of(request.headers.get("Authorization"))
    attended = Attended(here, here.lifecycle.submit(body.to_job(), owner, again=comes_again()))
    try:
        return _streaming(attended, body.wants_usage) if body.stream else _waiting(attended)
    except BaseException:  # the server may be stopping
        attended.leave()
        raise


class Attended:
    """A job that a client waits for; it is cancelled when the client leaves before its end."""

    def __init__(self, here: Services, rec: JobRecord) -> None:
        self.here = here
        self.rec = rec
        self.gone: Gone = client_gone()
        self._ended = False

    def ended(self) -> JobRecord:
        """Read the job, which ended."""
        self._ended = True
        return self.here.lifecycle.get(self.rec.id)

    def leave(self) -> None:
        """Cancel the job unless it ended."""
        if self._ended:
            return
        self._ended = True
        try:
            self.here.lifecycle.cancel(self.rec.id)
        except (ClientError, StoreUnavailable, RedisError) as error:
            log.warning("left job not cancelled", job=self.rec.id, error=type(error).__name__)


def _waiting(attended: Attended) -> Response:
    rec = await_job(attended.here, attended.rec, math.inf, lambda _: False, attended.gone)
    if rec.state not in TERMINAL:
        attended.leave()
        return Response(status=_CLIENT_CLOSED)
    if (error := failure(rec)) is not None:
        return error_answer(error)
    return answer(completion(rec))


def _streaming(attended: Attended, wants_usage: bool) -> Response:
    looks = watch(attended.here, attended.rec.id)
    first = _first_of_note(looks, attended.gone)
    if _nothing_but_the_end(first) and (error := failure(attended.ended())) is not None:
        return error_answer(error)
    chunks = _chunks(attended, chain([first], looks), wants_usage)
    return stream_answer(chunks, on_close=attended.leave)


def _first_of_note(looks: Iterator[list[LoggedEvent]], gone: Gone) -> list[LoggedEvent]:
    """What a look brought that has the first text or the end; nothing where neither came in time."""
    until = time.monotonic() + HOLD_SECONDS
    for events in looks:
        if any(event.kind is Kind.DELTA or event.ends for event in events):
            return events
        if time.monotonic() >= until or gone():
            break
    return []


def _nothing_but_the_end(events: list[LoggedEvent]) -> bool:
    """Whether a job ended without a text."""
    return any(event.ends for event in events) and not any(event.kind is Kind.DELTA for event in events)


def _chunks(attended: Attended, looks: Iterator[list[LoggedEvent]], wants_usage: bool) -> Iterator[bytes]:
    chunks, pulse = Chunks(attended.rec, wants_usage), Pulse()
    yield chunks.role()
    try:
        for events in looks:
            if said := b"".join([chunks.delta(event.data) for event in events if event.kind is Kind.DELTA]):
                pulse.beat()
                yield said
            if events and events[-1].ends:
                rec = attended.ended()
                error = failure(rec)
                yield b"".join(chunks.last(rec)) if error is None else data_event({"error": error.body()})
            elif not events:
                if attended.gone():
                    return
                if pulse.due:
                    yield HEARTBEAT
    except ClientError as error:  # the job was deleted meanwhile
        yield data_event({"error": error.body()})
    except (RedisError, StoreUnavailable):
        yield data_event({"error": store_unavailable().body()})
    yield DONE
