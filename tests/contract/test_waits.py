"""What clients are told of time: `eta_seconds` and `Retry-After`, of one clock."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from scheduler.bookings import BOOKINGS_KEY
from scheduler.fleet import RunningReport
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.pretend_worker import CARD, PretendWorker
from tests.waiting import wait_until

BODY: dict[str, Any] = {"model": MODEL, "prompt": "a", "max_tokens": 39}
BUSY = {
    "running": (RunningReport("job_a", MODEL, 1000, 100),),
    "tokens_per_second": 20.0,
    "work_tokens_per_second": 20.0,
    "max_batch": 1,
}
"""One job runs, for five seconds more; what waits then runs one after the other at twenty tokens a second."""


@pytest.fixture
def busy(connection: Redis) -> PretendWorker:
    """A worker with a job in hand, and no place for another."""
    pretend = PretendWorker(connection)
    pretend.report(**BUSY)
    return pretend


@pytest.fixture
def full(settings: Settings, connection: Redis, busy: PretendWorker) -> FlaskClient:
    """A client of a queue of two, where two wait."""
    client = create_app(settings.model_copy(update={"max_queued_jobs": 2}), connection).test_client()
    for number in range(2):
        assert client.post("/v1/jobs", json=BODY | {"seed": number}).status_code == 202
    return client


def test_a_job_is_told_when_it_should_start(client: FlaskClient, busy: PretendWorker) -> None:
    """When what runs has ended, and what waits before it; the hint to look again says the same in whole seconds."""
    answers = [client.post("/v1/jobs", json=BODY) for _ in range(3)]
    jobs: list[dict[str, Any]] = [answer.get_json() for answer in answers]
    etas = [job["queue"]["eta_seconds"] for job in jobs]
    assert etas[0] == 5.0
    assert etas[1] - etas[0] == pytest.approx(2.0, abs=0.15)
    assert etas[2] - etas[1] == pytest.approx(etas[1] - etas[0], abs=0.15)
    assert [int(answer.headers["Retry-After"]) for answer in answers] == [-int(-eta // 1) for eta in etas]
    again = client.get(f"/v1/jobs/{jobs[2]['id']}")
    assert again.get_json()["queue"]["eta_seconds"] == etas[2]
    result = client.get(f"/v1/jobs/{jobs[2]['id']}/result")
    assert result.headers["Retry-After"] == again.headers["Retry-After"]


def test_a_start_that_was_promised_is_told(client: FlaskClient, busy: PretendWorker) -> None:
    """The worker's promise, where that is sooner than the clock; one that is overdue tells nothing."""
    job = client.post("/v1/jobs", json=BODY).get_json()["id"]

    def eta() -> float:
        told: float = client.get(f"/v1/jobs/{job}").get_json()["queue"]["eta_seconds"]
        return told

    assert eta() == pytest.approx(5.0, abs=1.0)
    busy.report(**BUSY, starts_at={job: time.time() + 2.0})
    wait_until(lambda: 0 < eta() <= 2.0, "the promise")
    busy.report(**BUSY, starts_at={job: time.time() - 2.0})
    wait_until(lambda: eta() > 2.0, "the clock's word where a promise is overdue")


def test_place_and_time_follow_the_owners_turns(client: FlaskClient, busy: PretendWorker) -> None:
    """One key's five jobs come before another's first by one alone, and before its own by all."""

    def submit(key: str, **more: Any) -> dict[str, Any]:
        answer = client.post("/v1/jobs", json=BODY | more, headers={"Authorization": f"Bearer {key}"})
        job: dict[str, Any] = answer.get_json()
        return job

    many = [submit("ann", seed=seed) for seed in range(5)]
    one = submit("bob")
    assert [job["queue"]["position"] for job in many] == [1, 2, 3, 4, 5]
    assert one["queue"]["position"] == 2
    assert one["queue"]["eta_seconds"] == pytest.approx(7.0, abs=0.5)
    again = client.get(f"/v1/jobs/{many[4]['id']}").get_json()["queue"]
    assert again["position"] == 6


def test_ones_flood_does_not_refuse_another(
    settings: Settings, connection: Redis, busy: PretendWorker
) -> None:
    """Beyond the target one key is refused; another's first job starts in its turn, and is taken."""
    client = create_app(settings.model_copy(update={"target_wait": 10.0}), connection).test_client()
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("ann", "bob"))
    told = [client.post("/v1/jobs", json=BODY | {"seed": n}, headers=ann).status_code for n in range(6)]
    assert told == [202, 202, 202, 503, 503, 503]
    assert client.post("/v1/jobs", json=BODY, headers=bob).status_code == 202


def test_a_more_urgent_job_is_told_of_what_goes_before_it_alone(
    client: FlaskClient, busy: PretendWorker
) -> None:
    """A hundred tokens of batch work do not delay an interactive job."""
    for _ in range(3):
        client.post("/v1/jobs", json=BODY | {"priority": "batch"})
    job = client.post("/v1/jobs", json=BODY | {"priority": "interactive"}).get_json()
    assert job["queue"] == {"position": 1, "eta_seconds": 5.0}


def test_a_full_queue_tells_when_there_will_be_room(full: FlaskClient) -> None:
    """No sooner than the running job ends; each later than the one before, and the header says what the body says."""
    told = []
    for number in range(4):
        answer = full.post("/v1/jobs", json=BODY | {"prompt": f"client {number}"})
        error = answer.get_json()["error"]
        assert (answer.status_code, error["code"]) == (503, "queue_full")
        assert int(answer.headers["Retry-After"]) == error["retry_after"]
        told.append(error["retry_after"])
    assert told[0] > 5
    assert told == sorted(set(told))


def test_openais_client_that_comes_too_early_keeps_its_place(full: FlaskClient, connection: Redis) -> None:
    """It says that it was here before; one alike that says it was not, or nothing, has a place of its own."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 9}
    first = full.post("/v1/chat/completions", json=chat, headers={"x-stainless-retry-count": "0"})
    assert (first.status_code, connection.hlen(BOOKINGS_KEY)) == (503, 1)
    again = full.post("/v1/chat/completions", json=chat, headers={"x-stainless-retry-count": "1"})
    assert (again.status_code, connection.hlen(BOOKINGS_KEY)) == (503, 1)
    assert int(again.headers["Retry-After"]) <= int(first.headers["Retry-After"])
    twin = full.post("/v1/chat/completions", json=chat, headers={"x-stainless-retry-count": "0"})
    assert (twin.status_code, connection.hlen(BOOKINGS_KEY)) == (503, 2)
    assert int(twin.headers["Retry-After"]) > int(first.headers["Retry-After"])
    third = full.post("/v1/chat/completions", json=chat)
    assert (third.status_code, connection.hlen(BOOKINGS_KEY)) == (503, 3)


@pytest.mark.parametrize("said", ["-1", "1e9", "٣x", "", "0x1", "9" * 4000])
def test_whatever_is_said_of_retries_is_taken(full: FlaskClient, said: str) -> None:
    """A header that is no count says nothing."""
    headers = {"x-stainless-retry-count": said.encode().decode("latin-1")}
    assert full.post("/v1/jobs", json=BODY, headers=headers).status_code == 503


def test_a_job_that_would_start_too_late_is_refused(
    settings: Settings, connection: Redis, busy: PretendWorker
) -> None:
    """503 `queue_full` beyond the target, with the time when it would start within it; batch jobs wait."""
    client = create_app(settings.model_copy(update={"target_wait": 10.0}), connection).test_client()
    answers = [client.post("/v1/jobs", json=BODY | {"seed": number}) for number in range(6)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 503, 503, 503]
    error = answers[-1].get_json()["error"]
    assert error["code"] == "queue_full"
    assert "for more than 10 s" in error["message"]
    assert 1 <= error["retry_after"] <= 20
    late = client.post("/v1/jobs", json=BODY | {"priority": "batch"})
    assert late.status_code == 202
    assert late.get_json()["queue"]["eta_seconds"] > 10


def test_who_would_rather_fail_is_told_when_its_memory_is_free(
    client: FlaskClient, connection: Redis
) -> None:
    """503 `insufficient_memory`, and the moment when the running job gives its own back."""
    PretendWorker(connection).report(**(BUSY | {"headroom_bytes": 0, "running": _large(200)}))
    answer = client.post("/v1/jobs", json=BODY | {"on_insufficient_memory": "fail"})
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (503, "insufficient_memory")
    assert 10 <= error["retry_after"] == int(answer.headers["Retry-After"]) <= 12


def _large(remaining_tokens: int) -> tuple[RunningReport, ...]:
    return (RunningReport("job_a", MODEL, CARD.weights_bytes, remaining_tokens),)


def test_a_job_that_waited_too_long_is_told_when_it_would_start(
    client: FlaskClient, busy: PretendWorker
) -> None:
    """`queue_timeout` ends it; Retry-After is the clock's."""
    job = client.post("/v1/jobs", json=BODY | {"queue_timeout": 0.001}).get_json()
    result = client.get(f"/v1/jobs/{job['id']}/result")
    assert (result.status_code, result.get_json()["error"]["code"]) == (503, "queue_timeout")
    assert 5 <= int(result.headers["Retry-After"]) <= 9
