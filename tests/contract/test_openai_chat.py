"""The official client's chat and completions against a served API: tools, forms, choices, errors, retries."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from scheduler.errors import ClientError
from scheduler.request import JobRequest
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

TOOL: openai.types.chat.ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string"}},
            "required": ["at"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
CALLS = [
    {"id": f"call_{at}", "type": "function", "function": {"name": "look", "arguments": f'{{"at": "{at}"}}'}}
    for at in (1, 2)
]


class Person(BaseModel):
    """What an answer is parsed into."""

    name: str
    age: int


def chatting(text: str = "a") -> list[openai.types.chat.ChatCompletionMessageParam]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


@contextmanager
def ending(worker: PretendWorker, text: str = "", **result: Any) -> Iterator[list[JobRequest]]:
    """End the next job with this; the requests that the worker saw."""
    seen: list[JobRequest] = []

    def serve_one() -> None:
        wait_until(lambda: worker.queue.waiting()[0], "a job")
        held = worker.claim()
        seen.append(held.rec.request)
        if text:
            worker.say(held, text)
        worker.complete(held, text, **result)

    thread = threading.Thread(target=serve_one, daemon=True)
    thread.start()
    yield seen
    thread.join(15)


def test_calls_of_tools_come_back_whole(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """And can be sent back, with the tools' answers, as the client holds them."""
    with ending(worker, tool_calls=CALLS) as seen:
        said = sdk.chat.completions.create(
            model=MODEL, messages=chatting(), tools=[TOOL], tool_choice="required", parallel_tool_calls=True
        )
    choice = said.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [call.model_dump() for call in choice.message.tool_calls or ()] == CALLS
    assert seen[0].must_call
    turns: list[Any] = [*chatting(), choice.message]
    turns += [{"role": "tool", "tool_call_id": call["id"], "content": "seen"} for call in CALLS]
    with ending(worker, "done") as seen:
        said = sdk.chat.completions.create(model=MODEL, messages=turns, tools=[TOOL])
    assert said.choices[0].message.content == "done"
    messages = [message.for_template() for message in seen[0].messages or ()]
    assert [call["function"]["arguments"] for call in messages[1]["tool_calls"]] == [{"at": "1"}, {"at": "2"}]
    assert [message.get("tool_call_id") for message in messages[2:]] == ["call_1", "call_2"]


def test_calls_of_tools_are_streamed(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """By index, under the ids that the job's result has."""
    with ending(worker, "hm", tool_calls=CALLS):
        stream = sdk.chat.completions.create(model=MODEL, messages=chatting(), tools=[TOOL], stream=True)
        choices = [chunk.choices[0] for chunk in stream]
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.id) for call in calls] == [(0, "call_1"), (1, "call_2")]
    assert [json.loads((call.function and call.function.arguments) or "") for call in calls] == [
        *({"at": "1"}, {"at": "2"}),
    ]
    assert choices[-1].finish_reason == "tool_calls"


def test_the_streams_helper_puts_calls_together(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """`client.chat.completions.stream` parses the arguments of strict tools."""
    with (
        ending(worker, tool_calls=CALLS[:1]),
        sdk.chat.completions.stream(model=MODEL, messages=chatting(), tools=[TOOL]) as stream,
    ):
        names = {event.type for event in stream}
        said = stream.get_final_completion()
    (call,) = said.choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == {"at": "1"}
    assert "tool_calls.function.arguments.done" in names


def test_an_answer_is_parsed_into_a_model(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """The schema that pydantic makes is one that can be imposed."""
    with ending(worker, '{"name": "Ada", "age": 36}') as seen:
        said = sdk.chat.completions.parse(model=MODEL, messages=chatting(), response_format=Person)
    assert said.choices[0].message.parsed == Person(name="Ada", age=36)
    form = seen[0].response_format
    assert form is not None and form.strict
    assert form.schema_imposed is not None and form.schema_imposed["required"] == ["name", "age"]


def test_an_answer_that_was_cut_is_told(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """The client raises rather than parse half an object."""
    with ending(worker, '{"name": ', reason="length"), pytest.raises(openai.LengthFinishReasonError):
        sdk.chat.completions.parse(model=MODEL, messages=chatting(), response_format=Person)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "wish"}},
                }
            },
            "response_format",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"n": 9}, "n"),
    ],
)
def test_what_cannot_be_had_is_a_bad_request(
    sdk: openai.OpenAI, worker: PretendWorker, fields: dict[str, Any], param: str
) -> None:
    """Named as the client's own class of errors has it, and not tried again."""
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=chatting(), **fields)
    assert (caught.value.param, caught.value.code) == (param, "invalid_request")
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_reasoning_has_a_field_of_its_own(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """In the message, and in a stream's deltas."""
    with ending(worker, "so", reasoning="hm"):
        said = sdk.chat.completions.create(model=MODEL, messages=chatting())
    assert (said.choices[0].message.model_extra or {})["reasoning_content"] == "hm"


def test_choices_come_by_index(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """Waiting and streamed."""
    with worker.answering():
        said = sdk.chat.completions.create(model=MODEL, messages=chatting("a b"), n=2)
        stream = list(sdk.chat.completions.create(model=MODEL, messages=chatting("a b"), n=2, stream=True))
    assert [choice.message.content for choice in said.choices] == ["a b ", "a b "]
    texts = {0: "", 1: ""}
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "a b ", 1: "a b "}


def test_a_tier_is_a_class(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """And the answer says which."""
    with ending(worker, "a") as seen:
        said = sdk.chat.completions.create(model=MODEL, messages=chatting(), service_tier="flex")
    assert (seen[0].priority, said.service_tier) == ("batch", "flex")


def test_completions_by_the_official_client(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """Several prompts, waiting and streamed."""
    with worker.answering():
        said = sdk.completions.create(model=MODEL, prompt=["a", "b c"], max_tokens=5)
        stream = sdk.completions.create(
            model=MODEL, prompt="a b", stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert [choice.text for choice in said.choices] == ["a ", "b c "]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "a b "
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 10


def test_an_error_in_a_stream_is_raised(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """Of either route, with its code."""
    with worker.answering():
        for stream in (
            sdk.completions.create(model=MODEL, prompt="break", stream=True),
            sdk.chat.completions.create(model=MODEL, messages=chatting("break"), stream=True),
        ):
            with pytest.raises(openai.APIError) as broken:
                list(stream)
            assert broken.value.code == "insufficient_memory"


def test_the_client_tries_again_by_itself(url: str, worker: PretendWorker) -> None:
    """After a 503 with Retry-After, for as long as that says."""

    def serve_both() -> None:
        wait_until(lambda: worker.queue.waiting()[0], "a job")
        worker.fail(worker.claim(), ClientError("insufficient_memory", "insufficient memory", retry_after=1))
        wait_until(lambda: worker.queue.waiting()[0], "the job again")
        worker.complete(worker.claim(), "at last")

    thread = threading.Thread(target=serve_both, daemon=True)
    thread.start()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=1, timeout=20) as sdk:
        said = sdk.chat.completions.create(model=MODEL, messages=chatting())
    thread.join(15)
    assert said.choices[0].message.content == "at last"


def test_the_asynchronous_client_gets_the_same(url: str, worker: PretendWorker) -> None:
    """Calls in a stream, a parsed answer, completions."""

    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as sdk:
            with ending(worker, tool_calls=CALLS[:1]):
                stream = await sdk.chat.completions.create(
                    model=MODEL, messages=chatting(), tools=[TOOL], stream=True
                )
                calls = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
            assert [call.id for call in calls] == ["call_1"]
            with ending(worker, '{"name": "Ada", "age": 36}'):
                parsed = await sdk.chat.completions.parse(
                    model=MODEL, messages=chatting(), response_format=Person
                )
            assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)
            with worker.answering():
                said = await sdk.completions.create(model=MODEL, prompt=["a", "b"], n=2)
            assert [choice.text for choice in said.choices] == ["a ", "a ", "b ", "b "]

    asyncio.run(ask())
