"""`/v1/chat/completions` in OpenAI's shapes, by Flask's client."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from flask.testing import FlaskClient

from api import choices
from api.services import Services
from scheduler.errors import ClientError
from scheduler.job import State
from tests.conftest import MODEL
from tests.contract.streams import read
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

URL = "/v1/chat/completions"


def body(text: str = "a b", **fields: Any) -> dict[str, Any]:
    """A request of one message."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def chunks(client: FlaskClient, **fields: Any) -> list[Any]:
    """The data of a stream's events; a stream ends with [DONE]."""
    events = read(client.post(URL, json=body(**fields, stream=True)))
    assert {event.name for event in events} == {"message"}
    assert events[-1].data == "[DONE]"
    return [json.loads(event.data) for event in events[:-1]]


def test_a_completion_has_openais_shape(client: FlaskClient, worker: PretendWorker) -> None:
    """Named after its job, with the usage."""
    with worker.answering():
        said = client.post(URL, json=body()).get_json()
    job_id = f"job_{said['id'].removeprefix('chatcmpl-')}"
    job = client.get(f"/v1/jobs/{job_id}").get_json()
    assert said == {
        "id": said["id"],
        "object": "chat.completion",
        "created": int(job["created_at"]),
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a b ", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def test_openais_fields_become_the_jobs(client: FlaskClient, worker: PretendWorker, here: Services) -> None:
    """Each under its own name; null and OpenAI's bookkeeping say nothing."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    sent = body(
        max_completion_tokens=9,
        temperature=0.5,
        top_p=None,
        stop=["x"],
        seed=3,
        n=1,
        logprobs=True,
        top_logprobs=2,
        presence_penalty=1,
        logit_bias={"5": -1},
        tools=[tool],
        tool_choice="auto",
        response_format={"type": "text"},
        metadata={"a": "b"},
        priority="interactive",
        user="u",
        store=False,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_options={"mode": "explicit"},
        parallel_tool_calls=True,
    )
    with worker.answering():
        answer = client.post(URL, json=sent)
    assert answer.status_code == 200, answer.data
    request = here.lifecycle.get(here.lifecycle.page().records[0].id).request
    assert request.model_dump(exclude_defaults=True, exclude={"messages"}) == {
        "model": MODEL,
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ("x",),
        "seed": 3,
        "logprobs": 2,
        "presence_penalty": 1.0,
        "logit_bias": {5: -1.0},
        "tools": (tool,),
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "metadata": {"a": "b"},
        "priority": "interactive",
    }


def test_a_stream_has_the_role_the_text_and_the_reason(client: FlaskClient, worker: PretendWorker) -> None:
    """One id and no usage, as nobody asked."""
    with worker.answering():
        said = chunks(client, text="a b")
    choices = [chunk["choices"][0] for chunk in said]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [choice["delta"] for choice in choices[1:]] == [{"content": "a "}, {"content": "b "}, {}]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert {(chunk["object"], chunk["id"]) for chunk in said} == {("chat.completion.chunk", said[0]["id"])}
    assert not any("usage" in chunk for chunk in said)


def test_a_stream_counts_tokens_where_asked(client: FlaskClient, worker: PretendWorker) -> None:
    """A last chunk without choices; in those before it usage is null."""
    with worker.answering():
        *before, last = chunks(client, stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 10)
    assert [chunk["usage"] for chunk in before] == [None] * len(before)


def _end_with(worker: PretendWorker, **result: Any) -> threading.Thread:
    """Say and end the next job in a thread."""

    def serve() -> None:
        wait_until(lambda: worker.queue.waiting()[0], "a job")
        held = worker.claim()
        worker.say(held, "", reasoning="hm", logprobs=[{"token": "a"}])
        worker.complete(held, "", **result)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_reasoning_and_tool_calls_have_their_places(client: FlaskClient, worker: PretendWorker) -> None:
    """`reasoning_content`, `tool_calls`, and the reason that goes with them."""
    thread = _end_with(worker, reasoning="hm", tool_calls=[CALL], logprobs=[{"token": "a"}])
    choice = client.post(URL, json=body()).get_json()["choices"][0]
    thread.join()
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [CALL],
    }
    assert (choice["finish_reason"], choice["logprobs"]["content"]) == ("tool_calls", [{"token": "a"}])


def test_reasoning_and_tool_calls_are_streamed(client: FlaskClient, worker: PretendWorker) -> None:
    """Calls come whole, numbered, before the reason."""
    thread = _end_with(worker, tool_calls=[CALL])
    _, delta, calls, last = [chunk["choices"][0] for chunk in chunks(client)]
    thread.join()
    assert delta["delta"] == {"reasoning_content": "hm"}
    assert delta["logprobs"]["content"] == [{"token": "a"}]
    assert calls["delta"] == {"tool_calls": [{"index": 0, **CALL}]}
    assert (last["delta"], last["finish_reason"]) == ({}, "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_that_fails_before_its_first_text_is_an_http_error(
    client: FlaskClient, worker: PretendWorker, stream: bool
) -> None:
    """The job's own status and Retry-After, so that clients retry by themselves."""
    with worker.answering():
        answer = client.post(URL, json=body("fail", stream=stream))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.get_json()["error"]["code"] == "insufficient_memory"


def test_a_job_that_fails_later_says_so_in_the_stream(client: FlaskClient, worker: PretendWorker) -> None:
    """An error event, then [DONE]."""
    with worker.answering():
        said = chunks(client, text="break")
    assert said[-1]["error"]["code"] == "insufficient_memory"
    assert said[-2]["choices"][0]["delta"] == {"content": "one "}


def test_a_job_cancelled_by_others_is_a_conflict(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """409 `cancelled`, not retried."""

    def cancel() -> None:
        wait_until(lambda: here.reader.followed, "the client waits")
        here.lifecycle.cancel(here.lifecycle.page().records[0].id)

    thread = threading.Thread(target=cancel, daemon=True)
    thread.start()
    answer = client.post(URL, json=body())
    thread.join()
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")


def test_leaving_a_stream_cancels_its_job(client: FlaskClient, worker: PretendWorker, here: Services) -> None:
    """Nobody could come back to it."""
    with worker.answering():
        answer = client.post(URL, json=body("stall", stream=True))
        answer.close()
        (rec,) = here.lifecycle.page().records
        wait_until(lambda: here.lifecycle.get(rec.id).state is State.CANCELLED, "cancelled")
    assert here.reader.followed == 0


def test_a_stream_that_waits_long_begins_without_text(
    client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the answer is a stream, whatever comes; a failure is then an event."""
    monkeypatch.setattr(choices, "HOLD_SECONDS", 0.0)
    answer = client.post(URL, json=body(stream=True))
    worker.fail(worker.claim(), ClientError("queue_timeout", "it waited for 3 s", retry_after=3))
    role, error, done = read(answer)
    assert role.json()["choices"][0]["delta"]["role"] == "assistant"
    assert (error.json()["error"]["code"], done.data) == ("queue_timeout", "[DONE]")
