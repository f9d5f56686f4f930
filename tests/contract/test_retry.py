"""A job that is asked for again, and what was asked."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq.job import Job

from api.schemas import JobAnswer
from scheduler.errors import ClientError
from tests.conftest import MODEL
from tests.keys import bearer, make_key
from tests.pretend_worker import PretendWorker

ASKED: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 5,
    "priority": "batch",
    "metadata": {"night": "7"},
    "seed": 3,
}


def failed(client: FlaskClient, worker: PretendWorker, **headers: str) -> str:
    """A job that ran out of memory."""
    job: str = (client.post("/v1/jobs", json=ASKED, headers=headers).json or {})["id"]
    worker.fail(worker.claim(job), ClientError("insufficient_memory", "insufficient memory", retry_after=1))
    return job


def test_an_ended_job_is_asked_for_again(client: FlaskClient, worker: PretendWorker) -> None:
    """A new job of the same request, which says whose it is; the old one stays as it ended."""
    old = failed(client, worker)
    answer = client.post(f"/v1/jobs/{old}/retry")
    new = JobAnswer.model_validate(answer.json)
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/jobs/{new.id}")
    assert (new.retry_of, new.metadata, new.priority, new.status) == (old, {"night": "7"}, "batch", "queued")
    assert new.id != old
    requests = [
        (client.get(f"/v1/jobs/{each}?include=request").json or {})["request"] for each in (old, new.id)
    ]
    assert requests[0] == requests[1]
    (listed,) = (each for each in (client.get("/v1/jobs").json or {})["data"] if each["id"] == new.id)
    assert listed["retry_of"] == old
    assert (client.get(f"/v1/jobs/{old}").json or {})["status"] == "failed"


def test_a_job_that_has_not_ended_is_not_asked_for_again(client: FlaskClient, worker: PretendWorker) -> None:
    """Neither one that waits nor one that runs."""
    job = (client.post("/v1/jobs", json=ASKED).json or {})["id"]
    said = [client.post(f"/v1/jobs/{job}/retry")]
    held = worker.claim(job)
    said.append(client.post(f"/v1/jobs/{job}/retry"))
    worker.complete(held, "hi")
    assert [each.status_code for each in said] == [400, 400]
    messages = [(each.json or {})["error"]["message"] for each in said]
    assert [state in message for state, message in zip(("queued", "in_progress"), messages, strict=True)] == [
        True,
        True,
    ]
    assert client.post("/v1/jobs/job_gone/retry").status_code == 404


def test_it_is_admitted_like_any_other(client: FlaskClient, worker: PretendWorker) -> None:
    """What does not fit any more is refused."""
    old = failed(client, worker)
    worker.report(budget_bytes=5)
    here = client.application.extensions["tidegate"]
    here.lifecycle._workers = (0.0, [])  # it looks again at once
    answer = client.post(f"/v1/jobs/{old}/retry")
    assert (answer.status_code, (answer.json or {})["error"]["code"]) == (413, "memory_never_fits")


def test_with_a_key_it_is_done_once(client: FlaskClient, worker: PretendWorker) -> None:
    """A client that lost the answer finds the job that it made; of another job the key is refused."""
    old, other = failed(client, worker), failed(client, worker)
    headers = {"Idempotency-Key": "again"}
    first, second = (client.post(f"/v1/jobs/{old}/retry", headers=headers) for _ in range(2))
    assert (first.json or {})["id"] == (second.json or {})["id"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert client.post(f"/v1/jobs/{other}/retry", headers=headers).status_code == 422


def test_only_its_owner_asks_for_it_again(
    client: FlaskClient, connection: Redis, worker: PretendWorker
) -> None:
    """To others there is no such job; an operator sees it, and may not."""
    ann, _ = make_key(connection)
    bob, _ = make_key(connection)
    operator, _ = make_key(connection, sees_all=True)
    old = failed(client, worker, **bearer(ann))
    statuses = [
        client.post(f"/v1/jobs/{old}/retry", headers=bearer(token)).status_code
        for token in (bob, operator, ann)
    ]
    assert statuses == [404, 403, 202]


def test_what_was_asked_is_told_where_it_is_wanted(client: FlaskClient, worker: PretendWorker) -> None:
    """As it can be asked again; never its webhook."""
    body = ASKED | {"webhook": {"url": "https://example.com/x", "secret": "whsec_" + "a" * 32}}
    job = (client.post("/v1/jobs", json=body).json or {})["id"]
    assert "request" not in (client.get(f"/v1/jobs/{job}").json or {})
    answer = client.get(f"/v1/jobs/{job}?include=request")
    assert (answer.json or {})["request"] == ASKED
    assert b"whsec" not in answer.data
    assert b"example.com" not in answer.data
    assert client.get(f"/v1/jobs/{job}?include=everything").status_code == 400
    worker.complete(worker.claim(job), "hi")


@pytest.mark.parametrize("data", [b'["workers.run.generate",null,[],{"version":1,"request":{"model":7}}]'])
def test_a_request_that_nobody_can_read_is_null(
    client: FlaskClient, connection: Redis, worker: PretendWorker, data: bytes
) -> None:
    """Others wrote there: the job is told all the same, and not asked for again."""
    old = failed(client, worker)
    connection.hset(Job.key_for(old), "data", data)
    answer = client.get(f"/v1/jobs/{old}?include=request")
    assert (answer.status_code, (answer.json or {})["request"]) == (200, None)
    again = client.post(f"/v1/jobs/{old}/retry")
    assert (again.status_code, (again.json or {})["error"]["code"]) == (400, "invalid_request")
