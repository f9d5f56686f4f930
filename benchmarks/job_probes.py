"""What is asked of `/v1/jobs`, field by field: no other server has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from benchmarks.probing import (
    IGNORED,
    YES,
    Probe,
    Server,
    accepted,
    ended,
    events,
    refused,
    streamed,
    words,
)
from benchmarks.webhook_probes import webhook_probes

JOBS: Final = "/v1/jobs"

_FULL_SECONDS: Final = 1.5
"""A job that waits for so long does not wait for the moment that its worker needs to claim it."""


def _submit(server: Server, headers: dict[str, str], **fields: Any) -> httpx.Response:
    body = {"model": server.model, "prompt": "Say something.", "max_tokens": 24, "temperature": 0}
    return server.http.post(JOBS, json=body | fields, headers=headers)


def _job(server: Server, **fields: Any) -> str:
    """The path of a job that was just submitted."""
    answer = _submit(server, {}, **fields)
    accepted(answer)
    return answer.headers["Location"]


def _submitted(server: Server) -> str:
    path = _job(server)
    found = ended(server, path)
    result = accepted(server.http.get(f"{path}/result"))
    whole = result["usage"]["completion_tokens"] == 24 and result["finish_reason"] == "length"
    return YES if found["status"] == "incomplete" and whole else IGNORED


def _job_streamed(server: Server) -> str:
    path = f"{_job(server)}/stream"
    with streamed(server, "GET", path) as answer:
        whole = list(events(answer))
    with streamed(server, "GET", path, headers={"Last-Event-ID": "2"}) as answer:
        rest = list(events(answer))
    return YES if whole[-1][1] == "[DONE]" and rest == whole[2:] else IGNORED


def _job_cancelled(server: Server) -> str:
    answer = server.http.post(f"{_job(server, max_tokens=3000)}/cancel")
    return words(answer, "", lambda body: body["status"] == "cancelled")


def _job_deleted(server: Server) -> str:
    path = _job(server)
    accepted(server.http.delete(path))
    return YES if server.http.get(path).status_code == 404 else IGNORED


def _waited(server: Server) -> str:
    answer = _submit(server, {"Prefer": "wait=20"})
    return words(answer, "", lambda body: answer.status_code == 200 and body["status"] == "incomplete")


def _polled_long(server: Server) -> str:
    answer = server.http.get(f"{_job(server)}/result", params={"wait": 20})
    return words(answer, "", lambda body: body["usage"]["completion_tokens"] == 24)


def _once(server: Server) -> str:
    headers = {"Idempotency-Key": "a-job-of-this-probe"}
    one, again = (_submit(server, headers) for _ in range(2))
    same = accepted(one)["id"] == accepted(again)["id"] and again.headers.get("Idempotent-Replayed") == "true"
    other = _submit(server, headers, max_tokens=25)
    return YES if same and other.status_code == 422 else IGNORED


def _seen(name: str, value: Any) -> Callable[[Server], str]:
    """What a job says again of its request."""
    return lambda server: words(_submit(server, {}, **{name: value}), name, lambda body: body[name] == value)


def _listed(server: Server) -> str:
    path = _job(server, metadata={"probe": "listed"}, priority="batch")
    found = server.http.get(
        JOBS, params={"metadata[probe]": "listed", "priority": "batch", "model": server.model}
    )
    return words(found, "", lambda body: [each["id"] for each in body["data"]] == [path.rpartition("/")[2]])


def _runs_too_long(server: Server) -> str:
    path = _job(server, max_tokens=3000, run_timeout=0.1)
    ended(server, path)
    return refused(504, "run_timeout")(server.http.get(f"{path}/result"))


@contextmanager
def _worker_taken(server: Server) -> Iterator[None]:
    """While a worker computes as many jobs as it takes together, and one waits."""
    before: list[str] = []
    try:
        while not before or _starts(server, before[-1]):
            before.append(_job(server, max_tokens=3000))
        yield
    finally:
        for each in reversed(before):
            server.http.post(f"{each}/cancel")


def _starts(server: Server, path: str) -> bool:
    until = time.monotonic() + _FULL_SECONDS
    while time.monotonic() < until:
        if server.http.get(path).json()["status"] != "queued":
            return True
        time.sleep(0.02)
    return False


def _waits_too_long(server: Server) -> str:
    with _worker_taken(server):
        path = _job(server, queue_timeout=0.2)
        ended(server, path)
        return refused(503, "queue_timeout")(server.http.get(f"{path}/result"))


def _waits_not(server: Server) -> str:
    with _worker_taken(server):
        answer = _submit(server, {"Prefer": "wait=20"}, on_insufficient_memory="fail")
    return refused(503, "insufficient_memory")(answer)


JOB_PROBES: Final = (
    Probe(JOBS, "submitted, polled", "202, then the result", _submitted),
    Probe(JOBS, "`Prefer: wait=20`", "200 and the job as it ended", _waited),
    Probe(JOBS, "`…/result?wait=20`", "the result, when it is there", _polled_long),
    Probe(JOBS, "`Idempotency-Key`", "the same job, and a header that says so; 422 for another body", _once),
    Probe(JOBS, "`…/stream`, `Last-Event-ID`", "the rest of the same events", _job_streamed),
    Probe(JOBS, "`…/cancel`", "`cancelled`", _job_cancelled),
    Probe(JOBS, "deletion", "404 afterwards", _job_deleted),
    Probe(JOBS, "the list, by `metadata`, `priority`, `model`", "that one job", _listed),
    Probe(JOBS, "`priority`", "the job says it", _seen("priority", "batch")),
    Probe(JOBS, "`metadata`", "the job says it", _seen("metadata", {"session": "42"})),
    Probe(
        JOBS, "`queue_timeout`", "503 `queue_timeout` behind jobs that take the whole worker", _waits_too_long
    ),
    Probe(
        JOBS,
        "`on_insufficient_memory: fail`",
        "503 `insufficient_memory` where it would have to wait",
        _waits_not,
    ),
    Probe(JOBS, "`run_timeout`", "504 `run_timeout`", _runs_too_long),
    *webhook_probes(JOBS, lambda server, webhook: _submit(server, {}, webhook=webhook)),
)
