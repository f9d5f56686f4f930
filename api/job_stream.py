"""`/v1/jobs/{id}/stream`: a job's events, from the first or from where a client left off."""

from __future__ import annotations

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.caller import find
from api.cursor import cursor
from api.event_schemas import JOB_EVENTS
from api.presence import client_gone
from api.schemas import JobPath, StreamQuery
from api.services import services
from api.spec import ERRORS, streams
from api.sse import DONE, job_stream, stream_answer
from scheduler.errors import ClientError
from scheduler.events import last_number
from scheduler.job import TERMINAL

routes = APIBlueprint("job_stream", __name__, abp_tags=[Tag(name="jobs")], abp_responses=ERRORS)


@routes.get("/v1/jobs/<job_id>/stream", responses={200: streams(events=JOB_EVENTS)})
def follow_job(path: JobPath, query: StreamQuery) -> Response:
    """Follow a job's events.

    They start after `Last-Event-ID`, which a browser sends when it reconnects, or else after `?after=N`, or
    with the first. Each has its number as its `id`, from 1 without a gap, its kind as its `event`, and an object as
    its `data`:

    | event | data |
    |---|---|
    | `queued` | `at`: the job was accepted |
    | `started` | `attempt`, from 1, `worker` and `at`: a worker claimed it |
    | `delta` | `text`, which may be empty, and where there is any `reasoning` and `logprobs` |
    | `requeued` | `reason`, `attempt` and `at`: that attempt is over and the job waits again, with what it has so far |
    | `completed`, `incomplete`, `failed`, `cancelled` | the job as it ended, and `at`; nothing follows but `data: [DONE]` |
    | `error` | `error`, without a number: the job was deleted; `data: [DONE]` follows |

    `at` are Unix seconds; events that an earlier release wrote lack it. The reasons are `memory`, `preempted`, `larger_than_estimated`, `larger_than_budget`, `worker_stopped`,
    `worker_lost`, `engine_lost`, `out_of_memory`, `resource_limit`, `buffer_too_large`, `gpu_timeout`, `victim` and
    `bug`. Lines that begin with a colon say that the stream is alive, after ten seconds in silence. A stream that
    breaks off changes nothing about the job; go on after the last number that was seen.
    """
    here = services()
    rec = find(here, path.job_id)
    after = cursor(request.headers.get("Last-Event-ID"), query.after or 0)
    newest = last_number(here.lifecycle.connection, rec.id)
    if after > newest and rec.state not in TERMINAL:
        message = f"after: {after} is past the newest event of {rec.id}, {newest}"
        raise ClientError("invalid_request", message, param="after")
    if after >= newest and rec.state in TERMINAL:
        return stream_answer(iter([DONE]))
    return stream_answer(job_stream(here, rec.id, after, client_gone()))
