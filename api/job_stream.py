"""`/v1/jobs/{id}/stream`: a job's events, from the first or from where a client left off."""

from __future__ import annotations

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import TypeAdapter, ValidationError

from api.presence import client_gone
from api.schemas import EventNumber, JobPath, StreamQuery
from api.services import services
from api.spec import ERRORS, streams
from api.sse import DONE, job_stream, stream_answer
from scheduler.errors import ClientError
from scheduler.events import last_number
from scheduler.job import TERMINAL

routes = APIBlueprint("job_stream", __name__, abp_tags=[Tag(name="jobs")], abp_responses=ERRORS)

_CURSOR: TypeAdapter[int] = TypeAdapter(EventNumber)


@routes.get("/v1/jobs/<job_id>/stream", responses={200: streams()})
def follow_job(path: JobPath, query: StreamQuery) -> Response:
    """Follow a job's events.

    They start after `Last-Event-ID`, which a browser sends when it reconnects, or else after `?after=N`, or
    with the first. A `delta` always has `text`, which may be empty, and where there is any `reasoning` and
    `logprobs`. The last event is named as the job's final status and has the job as its data; `[DONE]`
    follows. A stream that breaks off changes nothing about the job.
    """
    here = services()
    rec = here.lifecycle.get(path.job_id)
    after = _cursor(request.headers.get("Last-Event-ID"), query.after or 0)
    newest = last_number(here.lifecycle.connection, rec.id)
    if after > newest and rec.state not in TERMINAL:
        message = f"after: {after} is past the newest event of {rec.id}, {newest}"
        raise ClientError("invalid_request", message, param="after")
    if after >= newest and rec.state in TERMINAL:
        return stream_answer(iter([DONE]))
    return stream_answer(job_stream(here, rec.id, after, client_gone()))


def _cursor(header: str | None, otherwise: int) -> int:
    if not header:
        return otherwise
    try:
        return _CURSOR.validate_strings(header)
    except ValidationError:
        raise ClientError(
            "invalid_request", "Last-Event-ID: not the number of an event", param="Last-Event-ID"
        ) from None
