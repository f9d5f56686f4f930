"""`/v1/responses` by Flask's client: what is answered, what is refused, what a response goes on from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq.job import Job

from api.response_schemas import ResponseAnswer
from api.services import Services
from scheduler.errors import ClientError
from scheduler.events import LoggedEvent, read_events
from scheduler.holding import Progress
from tests.conftest import MODEL
from tests.contract.asking import URL, ask, background, job
from tests.pretend_worker import PretendWorker

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def messages(here: Services, name: str) -> list[tuple[str, str]]:
    """What a response's model was told."""
    return [(each.role, each.text) for each in here.lifecycle.get(job(name)).request.messages or ()]


def test_a_response_has_openais_shape(client: FlaskClient, worker: PretendWorker) -> None:
    """As answered and as fetched later; it is its job."""
    with worker.answering():
        said = ask(client, instructions="be kind", metadata={"a": "b"}).get_json()
    ResponseAnswer.model_validate(said)
    assert said["status"] == "completed"
    assert said["output"][0]["content"][0]["text"] == "a b "
    assert (said["instructions"], said["metadata"], said["model"]) == ("be kind", {"a": "b"}, MODEL)
    assert said["usage"]["total_tokens"] == 10
    assert client.get(f"{URL}/{said['id']}").get_json() == said
    assert client.get(f"/v1/jobs/{job(said['id'])}").get_json()["status"] == "completed"


def test_a_long_answer_is_read_in_pages(
    client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two of them others have a turn; the whole of it took seconds. What was reasoned is joined of many too."""
    name, read = background(client), list[int]()

    def reading(*args: Any) -> list[LoggedEvent]:
        found = read_events(*args)
        read.append(len(found))
        return found

    monkeypatch.setattr("api.response_lookup.read_events", reading)
    held = worker.claim(job(name))
    worker.holding.write([Progress(held, {"text": "", "reasoning": "b ", "tokens": [1]}) for _ in range(600)])
    worker.holding.write([Progress(held, {"text": "a ", "tokens": [1]}) for _ in range(600)])
    worker.complete(held, "a " * 600, reasoning="b " * 600)
    said = client.get(f"{URL}/{name}").get_json()
    assert [each["content"][0]["text"] for each in said["output"]] == ["b " * 600, "a " * 600]
    assert (max(read), sum(read)) == (500, 1203)


def test_the_job_is_what_was_asked(client: FlaskClient, worker: PretendWorker, here: Services) -> None:
    """Under the job's own names; hints say nothing."""
    tool = {
        "type": "function",
        "name": "f",
        "description": "d",
        "parameters": {"type": "object"},
        "strict": True,
    }
    name = background(
        client,
        [{"role": "developer", "content": "be short"}, {"role": "user", "content": "q"}],
        instructions="be kind",
        max_output_tokens=9,
        temperature=0.5,
        top_p=None,
        tools=[tool],
        tool_choice="auto",
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        seed=3,
        stop="x",
        priority="interactive",
        queue_timeout=60,
        truncation="auto",
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "text"}, "verbosity": "low"},
        stream_options={"include_obfuscation": False},
        prompt_cache_key="k",
        max_tool_calls=4,
    )
    rec = here.lifecycle.get(job(name))
    assert rec.request.model_dump(exclude_defaults=True, exclude={"messages"}) == {
        "model": MODEL,
        "max_tokens": 9,
        "temperature": 0.5,
        "tools": (
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
            },
        ),
        "logprobs": 2,
        "seed": 3,
        "stop": ("x",),
        "priority": "interactive",
        "queue_timeout": 60,
    }
    assert messages(here, name) == [("system", "be kind\n\nbe short"), ("user", "q")]
    said = client.get(f"{URL}/{name}").get_json()
    assert (said["tools"], said["reasoning"]["effort"]) == ([tool], "low")
    assert (said["truncation"], said["prompt_cache_key"]) == ("disabled", "k")
    assert (said["text"]["verbosity"], said["max_tool_calls"]) == ("low", 4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"context_management": {}}, "context_management"),
        ({"background": True, "store": False}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": "x"}]}, "tools.0.parameters"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"include": ["everything"]}, "include.0"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a" * 65: "b"}}, f"metadata.{'a' * 65}"),
        ({"n": 2}, "n"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"previous_response_id": "resp_01jd3x0v5f8k2m4n6p8r0s2t4v"}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.id"),
        (
            {"input": [{"type": "item_reference", "id": "msg_01jd3x0v5f8k2m4n6p8r0s2t4v_out0"}]},
            "input.0.id",
        ),
    ],
)
def test_what_is_not_supported_is_refused(
    client: FlaskClient, connection: Redis, fields: dict[str, Any], param: str
) -> None:
    """400, with OpenAI's name of the field."""
    answer = client.post(URL, json={"model": MODEL, "input": "q", **fields})
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", param)
    assert param.split(".", maxsplit=1)[0] in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", ""),
        ("get", "?stream=true"),
        ("post", "/cancel"),
        ("delete", ""),
        ("get", "/input_items"),
    ],
)
def test_what_is_no_response_is_not_found(client: FlaskClient, method: str, path: str) -> None:
    """By any route: an unknown id, one of another form, and a job that was not asked for as a response."""
    plain = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}).get_json()["id"]
    for name in ("resp_01jd3x0v5f8k2m4n6p8r0s2t4v", "x", plain, plain.replace("job_", "resp_")):
        answer = client.open(f"{URL}/{name}{path}", method=method.upper())
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "not_found")
        assert name in answer.get_json()["error"]["message"]


def test_a_note_that_others_wrote_is_none(client: FlaskClient, connection: Redis) -> None:
    """Nothing read from the server is trusted: the response is not found, the job is there."""
    name = background(client)
    kwargs = {"version": 1, "request": {"model": MODEL, "prompt": "a"}, "note": {"response": {"input": 7}}}
    connection.hset(Job.key_for(job(name)), "data", json.dumps(["f", None, [], kwargs]).encode())
    assert client.get(f"{URL}/{name}").status_code == 404
    assert client.get(f"/v1/jobs/{job(name)}").status_code == 200


def test_calls_and_reasoning_are_items(client: FlaskClient, worker: PretendWorker) -> None:
    """In the order in which OpenAI has them; of calls that may not be parallel there is one."""
    name = background(client, tools=[{"type": "function", "name": "f"}], parallel_tool_calls=False)
    held = worker.claim()
    worker.say(held, "", reasoning="hm")
    worker.complete(held, "", reasoning="hm", tool_calls=[CALL, CALL])
    thought, call = client.get(f"{URL}/{name}").get_json()["output"]
    assert (thought["type"], thought["content"]) == ("reasoning", [{"type": "reasoning_text", "text": "hm"}])
    assert (call["type"], call["call_id"], call["name"], call["arguments"]) == (
        "function_call",
        "call_1",
        "f",
        "{}",
    )


def test_a_response_goes_on_from_another(client: FlaskClient, worker: PretendWorker, here: Services) -> None:
    """With what was said, by whom, and its own instructions; those before it may be gone meanwhile."""
    with worker.answering():
        first = ask(client, "one", instructions="old").get_json()["id"]
        second = ask(client, "two", previous_response_id=first, instructions="newer").get_json()["id"]
        assert client.delete(f"{URL}/{first}").get_json() == {
            "id": first,
            "object": "response",
            "deleted": True,
        }
        third = ask(client, "three", previous_response_id=second).get_json()
    assert messages(here, second) == [
        ("system", "newer"),
        ("user", "one"),
        ("assistant", "one "),
        ("user", "two"),
    ]
    assert messages(here, third["id"]) == [
        ("user", "one"),
        ("assistant", "one "),
        ("user", "two"),
        ("assistant", "two "),
        ("user", "three"),
    ]
    assert third["previous_response_id"] == second
    assert client.get(f"{URL}/{first}").status_code == 404


def test_items_can_be_referred_to(client: FlaskClient, worker: PretendWorker, here: Services) -> None:
    """As clients do that keep ids alone: an input's and an output's."""
    with worker.answering():
        said = ask(client, "one").get_json()
    (asked,) = client.get(f"{URL}/{said['id']}/input_items").get_json()["data"]
    references = [{"type": "item_reference", "id": asked["id"]}, {"id": said["output"][0]["id"]}]
    name = background(client, [*references, {"role": "user", "content": "two"}])
    assert messages(here, name) == [("user", "one"), ("assistant", "one "), ("user", "two")]
    listed = client.get(f"{URL}/{name}/input_items?order=asc").get_json()["data"]
    assert [item["id"] for item in listed[:2]] == [asked["id"], said["output"][0]["id"]]


def test_items_that_are_referred_to_are_bounded_as_those_that_are_sent(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """Each once more than a request may have: they are not gathered first, and measured then."""
    long = "x" * (here.settings.max_body_bytes // 3)
    name = background(client, [{"role": "user", "content": long}])
    reference = {"type": "item_reference", "id": f"msg_{name.removeprefix('resp_')}_in0"}
    refused = ask(client, [reference] * 3, background=True)
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "input")
    assert "refers to" in refused.get_json()["error"]["message"]


@pytest.mark.parametrize("end", ["waits", "fails", "cancelled"])
def test_a_response_without_an_output_is_nothing_to_go_on_from(
    client: FlaskClient, worker: PretendWorker, end: str
) -> None:
    """400, and it says why."""
    name = background(client)
    if end == "fails":
        worker.fail(worker.claim(), ClientError("worker_killed", "it died"))
    elif end == "cancelled":
        client.post(f"{URL}/{name}/cancel")
    answer = ask(client, previous_response_id=name)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "previous_response_id")


def test_input_items_come_in_pages(client: FlaskClient, connection: Redis) -> None:
    """The last first, unless asked otherwise; a page goes on behind an item."""
    sent = [{"role": "user", "content": f"{number}"} for number in range(5)]
    url = f"{URL}/{background(client, sent, instructions='not an item')}/input_items"

    def page(**query: Any) -> tuple[list[str], bool]:
        said = client.get(url, query_string=query).get_json()
        assert (said["first_id"], said["last_id"]) == (said["data"][0]["id"], said["data"][-1]["id"])
        return [item["content"][0]["text"] for item in said["data"]], said["has_more"]

    assert page() == (["4", "3", "2", "1", "0"], False)
    assert page(order="asc", limit=2) == (["0", "1"], True)
    last = client.get(url, query_string={"order": "asc", "limit": 2}).get_json()["last_id"]
    assert page(order="asc", limit=3, after=last) == (["2", "3", "4"], False)
    assert page(after=last) == (["0"], False)
    for query, param in (({"after": "x"}, "after"), ({"limit": 0}, "limit"), ({"order": "up"}, "order")):
        answer = client.get(url, query_string=query)
        assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)


def test_a_prompt_that_the_worker_refuses_is_the_inputs_fault(
    client: FlaskClient, worker: PretendWorker
) -> None:
    """Its client knows of no messages."""
    name = background(client)
    worker.fail(worker.claim(), ClientError("invalid_request", "messages: no", param="messages"))
    assert client.get(f"{URL}/{name}").get_json()["error"]["code"] == "invalid_prompt"
