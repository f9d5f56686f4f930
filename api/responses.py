"""`/v1/responses`: a job in the shape of OpenAI's responses, waited for or in the background.

A response is its job: it has no state of its own beside what was noted of the request. One that nobody waits for
(``background``) goes on when its client leaves; any other is cancelled then.
"""

from __future__ import annotations

import math
from itertools import chain

import structlog
from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from redis.exceptions import RedisError

from api.answers import answer
from api.attended import CLIENT_CLOSED, HOLD_SECONDS, Attended
from api.caller import caller
from api.errors import error_answer
from api.once import REPLAYED, once
from api.outcomes import failure
from api.presence import client_gone, comes_again
from api.response_event_schemas import RESPONSE_EVENTS
from api.response_items import messages_of, read_items, with_ids, with_instructions
from api.response_lookup import conversation, look_up, resolved, response_now
from api.response_note import ResponseNote
from api.response_request import ResponseRequest, as_asked
from api.response_schemas import (
    InputItems,
    InputItemsQuery,
    ResponseAnswer,
    ResponseDeleted,
    ResponsePath,
    ResponseQuery,
)
from api.response_stream import response_stream, up_to_first_text
from api.services import Services, services
from api.spec import ERRORS, streams
from api.sse import stream_answer
from api.traced import accept
from api.watching import await_end, let_go, watch
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.job import TERMINAL
from scheduler.record import JobRecord
from scheduler.request import JobRequest

routes = APIBlueprint("responses", __name__, abp_tags=[Tag(name="openai")], abp_responses=ERRORS)
log = structlog.get_logger(__name__)


@routes.post("/v1/responses", responses={200: streams(ResponseAnswer, RESPONSE_EVENTS)})
def create(body: ResponseRequest) -> Response:
    """Create a response, as OpenAI's route of this name does.

    With `background` it is answered at once, to be fetched by its id. With `stream` it is answered with its events;
    a background response's stream can be taken up again after any of them.
    """
    here = services()
    items = resolved(here, read_items(body.input))
    before = [] if body.previous_response_id is None else conversation(here, body.previous_response_id)
    messages = with_instructions([*before, *messages_of(items)], body.instructions)
    job, note = body.to_job(messages), body.note(items)
    try:
        if note.background:
            return _in_background(here, job, note, streaming=bool(body.stream))
        attended = Attended(here)
        attended.submit(job, note.to_note())
    except ClientError as error:
        raise as_asked(error) from None
    try:
        return _streaming(attended, note) if body.stream else _waiting(attended, note)
    except BaseException:  # the server may be stopping
        attended.leave()
        raise


@routes.get("/v1/responses/<response_id>", responses={200: streams(ResponseAnswer, RESPONSE_EVENTS)})
def retrieve(path: ResponsePath, query: ResponseQuery) -> Response:
    """Look at a response.

    `?stream=true` answers with its events, from the first or from the one behind `starting_after`; every time they
    are the same events, under the same numbers.
    """
    here = services()
    rec, note = look_up(here, path.response_id)
    if query.stream:
        after = -1 if query.starting_after is None else query.starting_after
        return _following(here, rec, note, after)
    if query.starting_after is not None:
        raise ClientError(
            "invalid_request", "starting_after: needs stream to be true", param="starting_after"
        )
    return answer(response_now(here, rec, note))


@routes.post("/v1/responses/<response_id>/cancel", responses={200: ResponseAnswer})
def cancel(path: ResponsePath) -> Response:
    """Cancel a response, and answer with it as it ended; still in progress where its worker has not let go in 10 s.

    Cancelling again, or a response that ended by itself, changes nothing.
    """
    here = services()
    rec, note = look_up(here, path.response_id)
    rec = let_go(here, here.lifecycle.cancel(rec.id), client_gone())
    return answer(response_now(here, rec, note))


@routes.delete("/v1/responses/<response_id>", responses={200: ResponseDeleted})
def delete(path: ResponsePath) -> Response:
    """Delete a response and its job; one that has not ended is cancelled."""
    here = services()
    rec, _ = look_up(here, path.response_id)
    here.lifecycle.delete(rec.id)
    return answer({"id": path.response_id, "object": "response", "deleted": True})


@routes.get("/v1/responses/<response_id>/input_items", responses={200: InputItems})
def list_input_items(path: ResponsePath, query: InputItemsQuery) -> Response:
    """List a response's own input, the last item first unless `order` is `asc`.

    What went before it is in the input and the output of the response that it went on from.
    """
    rec, note = look_up(services(), path.response_id)
    items = with_ids(note.input, rec.id)
    if query.order == "desc":
        items.reverse()
    start = 0
    if query.after is not None:
        names = [item["id"] for item in items]
        if query.after not in names:
            raise ClientError("invalid_request", f"after: no item {query.after[:64]!r}", param="after")
        start = names.index(query.after) + 1
    page = items[start : start + query.limit]
    return answer(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + len(page) < len(items),
        }
    )


def _in_background(here: Services, job: JobRequest, note: ResponseNote, *, streaming: bool) -> Response:
    """A response that goes on without its client; its stream is not held back, since its client wants its id."""
    owner = caller().owner
    rec, _ = accept(here, job, owner, again=comes_again(), note=note.to_note(), once=once(owner))
    said = _following(here, rec, note, -1) if streaming else answer(response_now(here, rec, note))
    said.headers.update(REPLAYED if rec.replayed else {})
    return said


def _following(here: Services, rec: JobRecord, note: ResponseNote, after: int) -> Response:
    """The stream of a response that goes on without its client."""
    looks, gone = watch(here, rec.id), client_gone()
    chunks = response_stream(rec, note, looks, gone, ended=lambda: here.lifecycle.get(rec.id), after=after)
    return stream_answer(chunks)


def _waiting(attended: Attended, note: ResponseNote) -> Response:
    rec = await_end(attended.here, attended.records[0], math.inf, attended.gone)
    if rec.state not in TERMINAL:
        _leave(attended, note, back_soon=True)
        return Response(status=CLIENT_CLOSED)
    return _whole(attended, note)


def _streaming(attended: Attended, note: ResponseNote) -> Response:
    rec = attended.records[0]
    looks = watch(attended.here, rec.id)
    first, silent = up_to_first_text(looks, attended.gone, HOLD_SECONDS)
    if silent and failure(attended.ended(0)) is not None:
        return _whole(attended, note)
    if attended.gone():
        _leave(attended, note, back_soon=True)
        return Response(status=CLIENT_CLOSED)
    chunks = response_stream(rec, note, chain([first], looks), attended.gone, ended=lambda: attended.ended(0))
    stream = stream_answer(chunks, on_close=lambda: _leave(attended, note))
    stream.headers.update(attended.headers)
    return stream


def _whole(attended: Attended, note: ResponseNote) -> Response:
    """The response that ended, or the error that it ended with."""
    rec = attended.ended(0)
    if (error := failure(rec)) is not None:
        said = error_answer(as_asked(error))
    else:
        said = answer(response_now(attended.here, rec, note))
    said.headers.update(attended.headers)
    _leave(attended, note)
    return said


def _leave(attended: Attended, note: ResponseNote, *, back_soon: bool = False) -> None:
    """The client has all, or is gone; what was not to be stored is forgotten, as soon as its worker lets go of it.

    One that does not within ten seconds leaves it to lapse as others do.
    """
    attended.leave(back_soon=back_soon)
    if note.store:
        return
    here, name = attended.here, attended.records[0].id
    try:
        rec = here.lifecycle.get(name)
        if rec.cancel_requested:
            rec = let_go(here, rec, lambda: False)
        if rec.state in TERMINAL:
            here.lifecycle.delete(name)
    except (ClientError, StoreUnavailable, RedisError) as error:
        log.warning("response not forgotten", job=name, error=type(error).__name__)
