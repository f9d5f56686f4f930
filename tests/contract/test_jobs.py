"""`/v1/jobs`: submitting, looking, waiting, results, cancelling, listing."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.schemas import JobAnswer, JobList, ResultAnswer
from api.services import Services
from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.request import JobRequest
from scheduler.strays import mend
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until


def submit(client: FlaskClient, prompt: str = "a b", **fields: Any) -> dict[str, Any]:
    """Submit a job that must be accepted."""
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": prompt, **fields})
    assert answer.status_code == 202, answer.data
    return dict(answer.json or {})


def test_a_submitted_job_is_queued_and_says_where(client: FlaskClient, worker: PretendWorker) -> None:
    """202, a Location that leads to the job, its place in the queue, and a hint when to look."""
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a", "metadata": {"for": "me"}})
    assert answer.status_code == 202
    job = JobAnswer.model_validate(answer.json)
    assert (job.status, job.queue and job.queue.position, job.metadata) == ("queued", 1, {"for": "me"})
    assert answer.headers["Location"] == f"/v1/jobs/{job.id}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.get(answer.headers["Location"]).get_json()["id"] == job.id


def test_a_job_was_made_at_one_moment(client: FlaskClient, here: Services) -> None:
    """The answer to its submission has the digits that are kept, and no more."""
    here.lifecycle._clock = lambda: 1753781886.1740575
    job = submit(client)
    assert job["created_at"] == client.get(f"/v1/jobs/{job['id']}").get_json()["created_at"]


def test_nulls_are_let_be(client: FlaskClient, here: Services) -> None:
    """As in the chat route; the job has the defaults."""
    job = submit(
        client, temperature=None, priority=None, metadata=None, stream=None, messages=None, stop=None
    )
    assert here.lifecycle.get(job["id"]).request == JobRequest(model=MODEL, prompt="a b")


def test_a_job_is_seen_through_its_life(client: FlaskClient, worker: PretendWorker) -> None:
    """Queued, in progress, completed with its result; the hint to look again goes with the end."""
    url = f"/v1/jobs/{submit(client)['id']}"
    held = worker.claim()
    answer = client.get(url)
    assert (answer.get_json()["status"], answer.headers["Retry-After"]) == ("in_progress", "1")
    worker.say(held, "hi")
    worker.complete(held, "hi")
    answer = client.get(url)
    job = JobAnswer.model_validate(answer.json)
    assert job.status == "completed"
    assert job.result is not None
    assert job.result.text == "hi"
    assert "Retry-After" not in answer.headers


def test_the_result_has_its_own_status(client: FlaskClient, worker: PretendWorker) -> None:
    """202 with the job and Retry-After until the end, then 200 with the result alone."""
    url = f"/v1/jobs/{submit(client)['id']}/result"
    before = client.get(url)
    assert (before.status_code, before.get_json()["object"]) == (202, "job")
    assert before.headers["Retry-After"]
    worker.complete(worker.claim(), "hi", reason="length")
    after = client.get(url)
    result = ResultAnswer.model_validate(after.json)
    assert (after.status_code, result.text, result.finish_reason) == (200, "hi", "length")
    assert result.usage.total_tokens == 10


@pytest.mark.parametrize(
    ("code", "status", "headers"),
    [
        ("insufficient_memory", 503, {"Retry-After": "12"}),
        ("queue_timeout", 503, {"Retry-After": "12"}),
        ("engine_timeout", 504, {"Retry-After": "12"}),
        ("run_timeout", 504, {"x-should-retry": "false"}),
        ("worker_killed", 500, {"x-should-retry": "false"}),
        ("memory_never_fits", 413, {"x-should-retry": "false"}),
    ],
)
def test_a_failed_jobs_result_is_its_error(
    client: FlaskClient, worker: PretendWorker, code: str, status: int, headers: dict[str, str]
) -> None:
    """The status, the numbers and the retry headers are those of the error that it ended with."""
    job = submit(client)
    worker.fail(worker.claim(), ClientError(code, "why", retry_after=12, limit_bytes=5))
    answer = client.get(f"/v1/jobs/{job['id']}/result")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["limit_bytes"]) == (status, code, 5)
    assert {name: answer.headers.get(name) for name in headers} == headers
    assert client.get(f"/v1/jobs/{job['id']}").get_json()["error"] == error


def test_cancelling_a_waiting_job_ends_it_at_once(client: FlaskClient, worker: PretendWorker) -> None:
    """200 with the job as it ended; again changes nothing; its result is 409, and nothing claims it."""
    job = submit(client)
    for _ in range(2):
        answer = client.post(f"/v1/jobs/{job['id']}/cancel")
        assert (answer.status_code, answer.get_json()["status"]) == (200, "cancelled")
    result = client.get(f"/v1/jobs/{job['id']}/result")
    assert (result.status_code, result.get_json()["error"]["code"]) == (409, "cancelled")
    assert result.headers["x-should-retry"] == "false"
    assert worker.try_claim() is None


def test_cancelling_a_running_job_answers_when_it_has_ended(
    client: FlaskClient, worker: PretendWorker
) -> None:
    """The worker is asked, and the answer waits for it."""
    with worker.answering():
        job = submit(client, "stall")
        wait_until(lambda: client.get(f"/v1/jobs/{job['id']}").get_json()["status"] == "in_progress", "start")
        answer = client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "cancelled")


def test_cancelling_an_ended_job_changes_nothing(client: FlaskClient, worker: PretendWorker) -> None:
    """It stays as it ended."""
    job = submit(client)
    worker.complete(worker.claim(), "hi")
    assert client.post(f"/v1/jobs/{job['id']}/cancel").get_json()["status"] == "completed"


def test_cancelling_a_job_that_rq_ended_answers(client: FlaskClient, connection: Redis) -> None:
    """RQ's own tools leave no outcome of ours; cancelling such a job must not go round for ever."""
    job = submit(client)
    queue = JobQueue(connection, 600)
    rq_job = queue.rq_queue("standard").fetch_job(job["id"])
    assert rq_job is not None
    rq_job.cancel()
    assert client.post(f"/v1/jobs/{job['id']}/cancel").get_json()["status"] == "cancelled"
    assert client.get(f"/v1/jobs/{job['id']}/result").status_code == 409
    rq_job.delete()
    mend(queue)


def test_prefer_wait_holds_for_the_end(client: FlaskClient, worker: PretendWorker) -> None:
    """200 with the ended job, and the preference that was applied."""
    with worker.answering():
        answer = client.post(
            "/v1/jobs", json={"model": MODEL, "prompt": "a b"}, headers={"Prefer": "wait=20"}
        )
    assert (answer.status_code, answer.get_json()["result"]["text"]) == (200, "a b ")
    assert answer.headers["Preference-Applied"] == "wait=20"


def test_prefer_wait_answers_with_the_error_that_the_job_ended_with(
    client: FlaskClient, worker: PretendWorker
) -> None:
    """503 and when to try again, as every client that waits is told; and where the job is."""
    body = {"model": MODEL, "prompt": "fail"}
    with worker.answering():
        answer = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Preference-Applied"] == "wait=20"
    job = client.get(answer.headers["Location"]).get_json()
    assert job["status"] == "failed"
    assert answer.get_json() == {"error": job["error"]}


def test_prefer_wait_gives_up_in_time(client: FlaskClient, connection: Redis) -> None:
    """202 after the seconds asked for, with the job as it is."""
    began = time.monotonic()
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.get_json()["status"]) == (202, "queued")
    assert 0.9 <= time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("header", "applied"),
    [
        ("wait=0", "wait=0"),
        ("respond-async, wait=0", "wait=0"),
        ('Wait="0"', "wait=0"),
        ("wait=x", None),
        ("await=9", None),
    ],
)
def test_prefer_is_read_as_rfc_7240_writes_it(
    client: FlaskClient, connection: Redis, header: str, applied: str | None
) -> None:
    """A preference that is not understood is let be."""
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers={"Prefer": header})
    assert (answer.status_code, answer.headers.get("Preference-Applied")) == (202, applied)


def test_a_long_poll_answers_at_the_next_change(client: FlaskClient, worker: PretendWorker) -> None:
    """`?wait` holds until the status is another, and no longer."""
    url = f"/v1/jobs/{submit(client)['id']}"
    seen: list[str] = []
    poll = threading.Thread(
        target=lambda: seen.append(client.get(f"{url}?wait=30").get_json()["status"]), daemon=True
    )
    poll.start()
    wait_until(lambda: client.application.extensions["tidegate"].reader.followed, "the poll follows")
    held = worker.claim()
    poll.join(10)
    assert seen == ["in_progress"]
    worker.complete(held, "hi")
    assert client.get(f"{url}?wait=30").get_json()["status"] == "completed"


def test_a_shed_job_stays_in_progress_on_the_wire(client: FlaskClient, worker: PretendWorker) -> None:
    """Once output was seen, waiting again is not *queued* for clients."""
    url = f"/v1/jobs/{submit(client)['id']}"
    held = worker.claim()
    worker.say(held, "one ")
    worker.queue.swap(worker.holding.put_back(held, Reason.MEMORY))
    assert client.get(url).get_json()["status"] == "in_progress"
    worker.complete(worker.claim(), "one two")
    assert client.get(url).get_json()["attempt"] == 2


def test_jobs_are_listed_newest_first_in_pages(client: FlaskClient, worker: PretendWorker) -> None:
    """Each page's cursor leads to the next; the last has none."""
    made = [submit(client, str(number))["id"] for number in range(5)]
    seen: list[str] = []
    query = "?limit=2"
    for more in (True, True, False):
        page = JobList.model_validate(client.get(f"/v1/jobs{query}").json)
        seen += [job.id for job in page.data]
        assert page.has_more is more
        query = f"?limit=2&after={page.next_cursor}"
    assert seen == sorted(made, reverse=True)


def test_the_list_is_filtered(client: FlaskClient, worker: PretendWorker) -> None:
    """By status, model and priority."""
    urgent = submit(client, priority="interactive")["id"]
    worker.complete(worker.claim(urgent), "hi")
    waiting = submit(client)["id"]

    def listed(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/v1/jobs?{query}").get_json()["data"]]

    assert listed("status=completed") == [urgent] == listed("priority=interactive")
    assert listed("status=queued") == [waiting]
    assert listed("model=other") == []
    assert listed(f"model={MODEL}") == [waiting, urgent]


@pytest.mark.parametrize("action", ["", "/result", "/stream", "/cancel"])
@pytest.mark.parametrize("job_id", ["job_00000000000000000000000000", "nonsense", "job_%00"])
def test_an_unknown_job_is_not_found(
    client: FlaskClient, connection: Redis, job_id: str, action: str
) -> None:
    """404, wherever it is asked for."""
    call = client.post if action == "/cancel" else client.get
    answer = call(f"/v1/jobs/{job_id}{action}")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "not_found")


def test_a_job_cut_short_has_a_result(client: FlaskClient, worker: PretendWorker) -> None:
    """*incomplete* is an end with a result, not an error."""
    job = submit(client)
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    worker.end(
        worker.claim(), Outcome(State.INCOMPLETE, {"text": "h", "finish_reason": "length", "usage": usage})
    )
    answer = client.get(f"/v1/jobs/{job['id']}/result")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "incomplete")
