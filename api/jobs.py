"""`/v1/jobs`: submit a job, look at it, wait for it, get its result, list and cancel."""

from __future__ import annotations

import re
from typing import Final

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.errors import error_answer
from api.outcomes import failure, result_of
from api.presence import client_gone, comes_again
from api.schemas import JobAnswer, JobList, JobPath, JobQuery, ListQuery, ResultAnswer
from api.services import Services, services
from api.spec import ERRORS, streams
from api.sse import EVENT_STREAM, job_stream, stream_answer
from api.watching import await_job
from scheduler.errors import clamp_retry_after
from scheduler.job import TERMINAL
from scheduler.owner import owner_of
from scheduler.record import JobRecord
from scheduler.request import JobRequest
from scheduler.standing import Standing

MAX_WAIT_SECONDS: Final = 60
CANCEL_SECONDS: Final = 10.0

_NO_PREFERENCE: Final = frozenset({"", "*/*", "application/json"})
_PREFER_WAIT: Final = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)

routes = APIBlueprint("jobs", __name__, abp_tags=[Tag(name="jobs")], abp_responses=ERRORS)


@routes.post("/v1/jobs", responses={200: streams(JobAnswer), 202: JobAnswer})
def submit(body: JobRequest) -> Response:
    """Submit a job.

    `Prefer: wait=N` holds the answer until the job ended, at most N seconds (60 at most): then 200 and the job, or
    the error that it ended with under that error's own status; else 202.
    `Accept: text/event-stream` or `"stream": true` answers with the job's stream.
    """
    here = services()
    wait = _preferred_wait(request.headers.get("Prefer", ""))
    owner = owner_of(request.headers.get("Authorization"))
    rec, standing = here.lifecycle.accept(body, owner, again=comes_again())
    headers = {"Location": f"/v1/jobs/{rec.id}"}
    if body.stream or _prefers_stream(request.headers.get("Accept", "")):
        stream = stream_answer(job_stream(here, rec.id, 0, client_gone()))
        stream.headers.update(headers)
        return stream
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait}"
        rec = await_job(here, rec, wait, _nothing_less, client_gone())
        if rec.state in TERMINAL and (error := failure(rec)) is not None:
            refused = error_answer(error)
            refused.headers.update(headers)
            return refused
        standing = None  # it may have moved
    return _job_answer(here, rec, 200 if rec.state in TERMINAL else 202, headers, standing)


@routes.get("/v1/jobs", responses={200: JobList})
def list_jobs(query: ListQuery) -> Response:
    """List jobs, newest first."""
    page = services().lifecycle.page(**query.model_dump())
    return answer(
        {
            "object": "list",
            "data": [rec.view() for rec in page.records],
            "has_more": page.next_cursor is not None,
            "next_cursor": page.next_cursor,
        }
    )


@routes.get("/v1/jobs/<job_id>", responses={200: JobAnswer})
def get_job(path: JobPath, query: JobQuery) -> Response:
    """Look at a job.

    `?wait=N` holds the answer until its status changes, at most N seconds.
    """
    here = services()
    rec = here.lifecycle.get(path.job_id)
    before = rec.wire_state
    if query.wait and rec.state not in TERMINAL:
        rec = await_job(here, rec, query.wait, lambda now: now.wire_state is not before, client_gone())
    return _job_answer(here, rec, 200)


@routes.get("/v1/jobs/<job_id>/result", responses={200: ResultAnswer, 202: JobAnswer})
def get_result(path: JobPath) -> Response:
    """Get a job's result with its own status: 200, or that of the error it ended with; 202 until then."""
    here = services()
    rec = here.lifecycle.get(path.job_id)
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
    rec = here.lifecycle.cancel(path.job_id)
    if rec.state not in TERMINAL:
        rec = await_job(here, rec, CANCEL_SECONDS, _nothing_less, client_gone())
    return _job_answer(here, rec, 200 if rec.state in TERMINAL else 202)


def _job_answer(
    here: Services,
    rec: JobRecord,
    status: int,
    headers: dict[str, str] | None = None,
    standing: Standing | None = None,
) -> Response:
    """A job, with a hint when to look again where it has not ended."""
    view = here.lifecycle.view(rec, standing)
    hint = {}
    if rec.state not in TERMINAL:
        hint = {"Retry-After": str(clamp_retry_after((view["queue"] or {}).get("eta_seconds")))}
    return answer(view, status, {**(headers or {}), **hint})


def _prefers_stream(accept: str) -> bool:
    """Whether a client would rather have events than JSON, of which most say nothing."""
    if accept in _NO_PREFERENCE:
        return False
    return request.accept_mimetypes.best_match(["application/json", EVENT_STREAM]) == EVENT_STREAM


def _nothing_less(_: JobRecord) -> bool:
    """Only the job's end is enough."""
    return False


def _preferred_wait(header: str) -> int | None:
    """The seconds in a ``Prefer`` header (RFC 7240), at most 60; what it says otherwise is let be."""
    found = _PREFER_WAIT.search(header)
    return min(MAX_WAIT_SECONDS, int(found[1])) if found else None
