"""`DELETE /v1/jobs/{id}`, and what those who follow the job see."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api import watching
from api.schemas import DeletedJob
from api.services import Services
from scheduler.events import STEPS_CHANNEL
from tests.conftest import MODEL
from tests.contract.streams import names, read
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until


def submit(client: FlaskClient, prompt: str = "a b") -> str:
    """Submit a job; its URL."""
    return str(client.post("/v1/jobs", json={"model": MODEL, "prompt": prompt}).headers["Location"])


def test_an_ended_job_is_gone_when_it_was_deleted(client: FlaskClient, worker: PretendWorker) -> None:
    """200 once, then 404 by every route and in no list."""
    url = submit(client)
    worker.complete(worker.claim(), "hi")
    answer = client.delete(url)
    said = DeletedJob.model_validate(answer.json)
    assert (answer.status_code, f"/v1/jobs/{said.id}", said.deleted) == (200, url, True)
    calls = [client.delete(url), client.get(url), client.get(f"{url}/result"), client.post(f"{url}/cancel")]
    assert [(each.status_code, each.get_json()["error"]["code"]) for each in calls] == [
        (404, "not_found")
    ] * 4
    assert client.get("/v1/jobs").get_json()["data"] == []


def test_a_running_job_is_deleted_when_its_worker_let_go(client: FlaskClient, worker: PretendWorker) -> None:
    """It is cancelled first; the worker ends it as it ends any."""
    with worker.answering():
        url = submit(client, "stall")
        wait_until(lambda: client.get(url).get_json()["status"] == "in_progress", "start")
        assert client.delete(url).status_code == 200
    assert client.get(url).status_code == 404


def test_a_job_whose_worker_is_silent_is_deleted_all_the_same(
    client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while nobody waits for it."""
    monkeypatch.setattr(watching, "CANCEL_SECONDS", 0.1)
    url = submit(client)
    held = worker.claim()
    assert client.delete(url).status_code == 200
    assert client.get(url).status_code == 404
    assert worker.holding.cancel_wanted([held]) == []


def follow(client: FlaskClient, here: Services, url: str) -> tuple[threading.Thread, list[Any]]:
    """Follow a job in a thread; what it is told."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(read(client.get(f"{url}/stream"))), daemon=True)
    thread.start()
    _until_followed(here)
    return thread, seen


def _until_followed(here: Services) -> None:
    wait_until(lambda: here.reader.followed, "somebody follows")
    wait_until(lambda: here.lifecycle.connection.pubsub_numsub(STEPS_CHANNEL)[0][1], "the reader listens")  # type: ignore[index]


def test_a_stream_of_a_job_that_is_deleted_ends_at_once(
    client: FlaskClient, here: Services, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With word of it, and ``[DONE]``; the log that it would read is gone."""
    monkeypatch.setattr(watching, "CANCEL_SECONDS", 0.0)
    url = submit(client)
    held = worker.claim()
    worker.say(held, "one ")
    thread, seen = follow(client, here, url)
    client.delete(url)
    thread.join(5)
    assert not thread.is_alive()
    assert names(seen) == ["queued", "started", "delta", "error", "message"]
    assert (seen[-2].json()["error"]["code"], seen[-1].data) == ("not_found", "[DONE]")
    assert here.reader.followed == 0


def test_who_waits_for_a_job_that_is_deleted_is_told_at_once(
    client: FlaskClient, here: Services, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long poll is answered with 404."""
    monkeypatch.setattr(watching, "CANCEL_SECONDS", 0.0)
    url = submit(client)
    worker.claim()
    seen: list[int] = []
    poll = threading.Thread(
        target=lambda: seen.append(client.get(f"{url}/result?wait=30").status_code), daemon=True
    )
    poll.start()
    _until_followed(here)
    client.delete(url)
    poll.join(5)
    assert seen == [404]


def test_a_deleted_jobs_key_is_free(client: FlaskClient, connection: Redis) -> None:
    """The same submission then makes another job."""
    body, headers = {"model": MODEL, "prompt": "a"}, {"Idempotency-Key": "k"}
    first = client.post("/v1/jobs", json=body, headers=headers).get_json()["id"]
    client.delete(f"/v1/jobs/{first}")
    again = client.post("/v1/jobs", json=body, headers=headers)
    assert (again.status_code, again.get_json()["id"] != first) == (202, True)
