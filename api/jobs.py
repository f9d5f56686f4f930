"""`/v1/jobs`: submit a job, look at it, wait for it, get its result; list, cancel and delete."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.caller import caller, find
from api.errors import error_answer
from api.event_schemas import JOB_EVENTS
from api.job_queries import ListQuery, ResultQuery
from api.once import REPLAYED, once
from api.outcomes import failure, result_of
from api.presence import client_gone, comes_again
from api.schemas import DeletedJob, JobAnswer, JobList, JobPath, JobQuery, ResultAnswer
from api.services import Services, services
from api.spec import ERRORS, streams
from api.sse import EVENT_STREAM, job_stream, stream_answer
from api.traced import accept
from api.watching import await_end, await_job, let_go
from scheduler.door import stored
from scheduler.errors import ClientError, clamp_retry_after
from scheduler.job import TERMINAL
from scheduler.record import JobRecord
from scheduler.request import JobRequest
from scheduler.standing import Standing

MAX_WAIT_SECONDS: Final = 60

_NO_PREFERENCE: Final = frozenset({"", "*/*", "application/json"})
_PREFER_WAIT: Final = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)

routes = APIBlueprint("jobs", __name__, abp_tags=[Tag(name="jobs")], abp_responses=ERRORS)


@routes.post("/v1/jobs", responses={200: streams(JobAnswer, JOB_EVENTS), 202: JobAnswer})
def submit(body: JobRequest) -> Response:
    """Submit a job.

    `Prefer: wait=N` holds the answer until the job ended, at most N seconds (60 at most): then 200 and the job, or
    the error that it ended with under that error's own status; else 202.
    `Accept: text/event-stream` or `"stream": true` answers with the job's stream.

    `Idempotency-Key` makes it safe to send a submission again: for a day, the same key with the same body answers with
    the job that was made first, as it is by then, and says `Idempotent-Replayed: true`; with another body it is a 422.
    A job that was deleted, or failed so that a retry can help, is made anew. OpenAI's clients need no key: a retry,
    which they mark, finds the job of the try before it for two minutes.
    """
    here = services()
    wait = _preferred_wait(request.headers.get("Prefer", ""))
    owner = caller().owner
    rec, standing = accept(here, body, owner, again=comes_again(), once=once(owner))
    headers = {"Location": f"/v1/jobs/{rec.id}"} | (REPLAYED if rec.replayed else {})
    if body.stream or _prefers_stream(request.headers.get("Accept", "")):
        stream = stream_answer(job_stream(here, rec.id, 0, client_gone()))
        stream.headers.update(headers)
        return stream
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait}"
        rec = await_end(here, rec, wait, client_gone())
        if rec.state in TERMINAL and (error := failure(rec)) is not None:
            refused = error_answer(error)
            refused.headers.update(headers)
            return refused
        standing = None  # it may have moved
    return _job_answer(here, rec, 200 if rec.state in TERMINAL else 202, headers, standing)


@routes.get("/v1/jobs", responses={200: JobList})
def list_jobs(query: ListQuery) -> Response:
    """List jobs, newest first.

    `after` and `before` are ids of jobs, from `next_cursor` or any other; they need not exist any more.
    """
    here = services()
    page = here.lifecycle.page(**query.model_dump(), owner=caller().sees)
    ids = [rec.id for rec in page.records]
    return answer(
        {
            "object": "list",
            "data": here.lifecycle.view_all(page.records),
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": page.next_cursor is not None,
            "next_cursor": page.next_cursor,
        }
    )


@routes.get("/v1/jobs/<job_id>", responses={200: JobAnswer})
def get_job(path: JobPath, query: JobQuery) -> Response:
    """Look at a job.

    `?wait=N` holds the answer until its status changes, at most N seconds. `?include=request` tells what was asked, too.
    """
    here = services()
    rec = find(here, path.job_id)
    before = rec.wire_state
    if query.wait and rec.state not in TERMINAL:
        rec = await_job(here, rec, query.wait, lambda now: now.wire_state is not before, client_gone())
    return _job_answer(here, rec, 200, asked=query.include == "request")


@routes.get("/v1/jobs/<job_id>/result", responses={200: ResultAnswer, 202: JobAnswer})
def get_result(path: JobPath, query: ResultQuery) -> Response:
    """Get a job's result with its own status: 200, or that of the error it ended with; 202 until then.

    `?wait=N` holds the answer until it ended, at most N seconds.
    """
    here = services()
    rec = find(here, path.job_id)
    if query.wait and rec.state not in TERMINAL:
        rec = await_end(here, rec, query.wait, client_gone())
    if rec.state not in TERMINAL:
        return _job_answer(here, rec, 202)
    if (error := failure(rec)) is not None:
        return error_answer(error)
    named = {"id": rec.id, "object": "job.result", "status": rec.state.value, "model": rec.meta.model}
    return answer(result_of(rec) | named)


@routes.post("/v1/jobs/<job_id>/cancel", responses={200: JobAnswer, 202: JobAnswer})
def cancel(path: JobPath) -> Response:
    """Cancel a job, and answer with it as it ended; 202 where its worker has not let go within 10 s.

    Cancelling again, or a job that ended by itself, changes nothing.
    """
    here = services()
    rec = let_go(here, here.lifecycle.cancel(find(here, path.job_id).id), client_gone())
    return _job_answer(here, rec, 200 if rec.state in TERMINAL else 202)


@routes.post("/v1/jobs/<job_id>/retry", responses={200: JobAnswer, 202: JobAnswer})
def retry(path: JobPath) -> Response:
    """Ask for an ended job again: a new job is made from its request, as if that were sent once more.

    It is admitted, or refused, as any other. Its `metadata` are the same, its `retry_of` names the job that ended; a
    webhook, and a seed that was drawn, are not taken over. Only the job's owner may do this, once it has ended (400
    before). With an `Idempotency-Key` it is done once: then the answer may be 200, about a job that has ended meanwhile.
    """
    here = services()
    rec = find(here, path.job_id)
    if rec.state not in TERMINAL:
        message = f"{rec.id} is {rec.wire_state}: only a job that has ended can be asked for again"
        raise ClientError("invalid_request", message, param="id")
    owner = caller().owner
    if caller().key is not None and rec.meta.owner != owner:
        raise ClientError(
            "forbidden", f"{rec.id} is another key's: only that may ask for it again", param="id"
        )
    made, standing = accept(here, rec.request, owner, again=comes_again(), once=once(owner), retry_of=rec.id)
    headers = {"Location": f"/v1/jobs/{made.id}"} | (REPLAYED if made.replayed else {})
    return _job_answer(here, made, 200 if made.state in TERMINAL else 202, headers, standing)


@routes.delete("/v1/jobs/<job_id>", responses={200: DeletedJob})
def delete(path: JobPath) -> Response:
    """Delete a job, with its log and its result, which nobody finds from then on.

    One that waits or runs is cancelled first; streams that follow it end. So is its `Idempotency-Key` free again.
    """
    here = services()
    rec = let_go(here, here.lifecycle.cancel(find(here, path.job_id).id), client_gone())
    here.lifecycle.delete(rec.id)
    return answer({"id": rec.id, "object": "job", "deleted": True})


def _job_answer(
    here: Services,
    rec: JobRecord,
    status: int,
    headers: dict[str, str] | None = None,
    standing: Standing | None = None,
    *,
    asked: bool = False,
) -> Response:
    """A job, and what was asked where that is wanted; with a hint when to look again where it has not ended."""
    view = here.lifecycle.view(rec, standing)
    if asked:
        view["request"] = _request(rec)
    hint = {}
    if rec.state not in TERMINAL:
        hint = {"Retry-After": str(clamp_retry_after((view["queue"] or {}).get("eta_seconds")))}
    return answer(view, status, {**(headers or {}), **hint})


def _request(rec: JobRecord) -> dict[str, Any] | None:
    """What was asked, as it could be asked again; None where another release, or nobody, can read it."""
    with suppress(ClientError):
        return stored(rec.request)
    return None


def _prefers_stream(accept: str) -> bool:
    """Whether a client would rather have events than JSON, of which most say nothing."""
    if accept in _NO_PREFERENCE:
        return False
    return request.accept_mimetypes.best_match(["application/json", EVENT_STREAM]) == EVENT_STREAM


def _preferred_wait(header: str) -> int | None:
    """The seconds in a ``Prefer`` header (RFC 7240), at most 60; what it says otherwise is let be."""
    found = _PREFER_WAIT.search(header)
    return min(MAX_WAIT_SECONDS, int(found[1])) if found else None
