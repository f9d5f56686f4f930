"""Several choices of one request: a job each, all of them answered or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.services import Services
from scheduler.job import State
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.contract.streams import read
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(autouse=True)
def nobody_follows_for_ever(here: Services) -> Iterator[None]:
    """Whoever followed a job lets go of it soon after the answer."""
    yield
    wait_until(lambda: here.reader.followed == 0, "nobody follows", 10)


def chat(text: str = "a b", **fields: Any) -> dict[str, Any]:
    """A chat of one message."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def streamed(client: FlaskClient, url: str, body: dict[str, Any]) -> list[Any]:
    """The data of a stream's events; a stream ends with [DONE]."""
    events = read(client.post(url, json=body | {"stream": True}))
    assert events[-1].data == "[DONE]"
    return [json.loads(event.data) for event in events[:-1]]


def states(here: Services) -> set[State]:
    """Of every job."""
    return {here.lifecycle.get(rec.id).state for rec in here.lifecycle.page().records}


def test_each_choice_is_a_job_with_a_seed_of_its_own(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """The next seed each; the prompt counts once, as OpenAI counts it, and the answers all."""
    with worker.answering():
        said = client.post(CHAT, json=chat(n=3, seed=7)).get_json()
    assert [choice["index"] for choice in said["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in said["choices"]] == ["a b "] * 3
    assert said["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 9,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    jobs = [here.lifecycle.get(rec.id) for rec in here.lifecycle.page().records]
    assert [job.meta.seed for job in jobs] == [9, 8, 7]
    assert said["id"].removeprefix("chatcmpl-") == jobs[-1].id.removeprefix("job_")


def test_the_last_seed_is_followed_by_the_first(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """Each is one that a job may have."""
    with worker.answering():
        assert client.post(CHAT, json=chat(n=2, seed=(1 << 64) - 1)).status_code == 200
    jobs = [here.lifecycle.get(rec.id) for rec in here.lifecycle.page().records]
    assert [job.meta.seed for job in jobs] == [0, (1 << 64) - 1]


def test_choices_are_streamed_side_by_side(client: FlaskClient, worker: PretendWorker) -> None:
    """Each chunk says whose it is; each choice is whole; the usage comes once, at the very end."""
    with worker.answering():
        *said, last = streamed(client, CHAT, chat("a b c", n=3, stream_options={"include_usage": True}))
    assert len({chunk["id"] for chunk in said}) == 1
    for index in range(3):
        parts = [chunk["choices"][0] for chunk in said if chunk["choices"][0]["index"] == index]
        assert parts[0]["delta"]["role"] == "assistant"
        assert "".join(part["delta"].get("content") or "" for part in parts) == "a b c "
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["stop"]
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 16)


@pytest.mark.parametrize("stream", [False, True])
def test_where_one_prompt_fails_the_others_are_cancelled(
    client: FlaskClient, worker: PretendWorker, here: Services, stream: bool
) -> None:
    """The answer is the error alone, with its own status, where nothing was said of the others before."""
    body = {"model": MODEL, "prompt": ["fail", "late", "later"], "stream": stream}
    with worker.answering(1):
        answer = client.post(TEXT, json=body)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "insufficient_memory")
        wait_until(lambda: states(here) == {State.FAILED, State.CANCELLED}, "the others are cancelled")


def test_one_that_fails_in_the_stream_ends_it(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """Once something was sent, the error is an event; the others are cancelled."""
    with worker.answering():
        said = streamed(client, TEXT, {"model": MODEL, "prompt": ["break", "stall"]})
        wait_until(lambda: states(here) == {State.FAILED, State.CANCELLED}, "the other is cancelled")
    assert said[-1]["error"]["code"] == "insufficient_memory"
    assert any(chunk["choices"][0]["text"] == "one " for chunk in said[:-1])


def test_a_request_that_is_not_admitted_whole_is_not_at_all(
    settings: Settings, connection: Redis, worker: PretendWorker, here: Services
) -> None:
    """Where one of its jobs finds the queue full, those before it are cancelled."""
    small = create_app(settings.model_copy(update={"max_queued_jobs": 2}), connection)
    answer = small.test_client().post(CHAT, json=chat(n=3))
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "queue_full")
    assert "Retry-After" in answer.headers
    assert states(here) == {State.CANCELLED}


def test_leaving_a_stream_cancels_every_job(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """Nobody could come back to them."""
    with worker.answering():
        answer = client.post(CHAT, json=chat("stall", n=2, stream=True))
        answer.close()
        wait_until(lambda: states(here) == {State.CANCELLED}, "cancelled")
