"""`/v1/responses` by the official client, as the API is served."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.request import JobRequest
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

TOOL: Any = {
    "type": "function",
    "name": "add",
    "description": "Add.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def until_ended(sdk: openai.OpenAI, name: str) -> Response:
    """Poll a response, as its users do."""
    wait_until(lambda: sdk.responses.retrieve(name).status not in {"queued", "in_progress"}, f"{name} ended")
    return sdk.responses.retrieve(name)


def dumped(events: list[ResponseStreamEvent]) -> list[dict[str, Any]]:
    """Events as they can be compared."""
    return [event.to_dict() for event in events]


def test_a_response_is_waited_for(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """With its text, its usage, its input; found again by its id, until it is deleted."""
    with worker.answering():
        said = sdk.responses.create(model=MODEL, input="a b", instructions="be kind", metadata={"k": "v"})
    assert (said.status, said.output_text, said.metadata) == ("completed", "a b ", {"k": "v"})
    assert said.usage is not None
    assert (said.usage.input_tokens, said.usage.output_tokens, said.usage.total_tokens) == (7, 3, 10)
    assert sdk.responses.retrieve(said.id).to_dict() == said.to_dict()
    (item,) = sdk.responses.input_items.list(said.id)
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "a b"}]
    sdk.responses.delete(said.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(said.id)


def test_a_stream_has_every_event(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """In OpenAI's order, numbered from 0."""
    with worker.answering():
        events = list(sdk.responses.create(model=MODEL, input="a b", stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(11))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "a b "


def test_the_clients_own_account_of_a_stream_ends_well(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """`responses.stream` adds up what it is sent."""
    with worker.answering(), sdk.responses.stream(model=MODEL, input="a b c") as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots == ["a ", "a b ", "a b c "]
    assert final.output_text == "a b c "


def test_a_response_in_the_background_is_polled(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """Queued at first, then completed."""
    said = sdk.responses.create(model=MODEL, input="a b", background=True)
    assert (said.status, said.background, said.output) == ("queued", True, [])
    with worker.answering():
        ended = until_ended(sdk, said.id)
    assert (ended.status, ended.output_text) == ("completed", "a b ")


def test_a_response_in_the_background_is_cancelled(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """While it waits, and while it runs; again is no error."""
    waits = sdk.responses.create(model=MODEL, input="a", background=True)
    assert sdk.responses.cancel(waits.id).status == "cancelled"
    runs = sdk.responses.create(model=MODEL, input="stall", background=True)
    with worker.answering():
        wait_until(lambda: sdk.responses.retrieve(runs.id).status == "in_progress", "it runs")
        assert sdk.responses.cancel(runs.id).status == "cancelled"
    again = sdk.responses.cancel(runs.id)
    assert (again.status, again.output_text) == ("cancelled", "one ")


def test_a_stream_that_is_cut_goes_on_where_it_was(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """By `starting_after`: both parts together are the stream as it is read later."""
    begun: list[ResponseStreamEvent] = []
    with sdk.responses.create(model=MODEL, input="q", background=True, stream=True) as stream:
        held = worker.claim()
        worker.say(held, "a ")
        for event in stream:
            begun.append(event)
            if event.type == "response.output_text.delta":
                break
    assert begun[0].type == "response.created"
    name = begun[0].response.id
    worker.say(held, "b ")
    with sdk.responses.retrieve(name, stream=True, starting_after=begun[-1].sequence_number) as stream:
        rest = [next(iter(stream))]
        worker.say(held, "c")
        worker.complete(held, "a b c")
        rest += list(stream)
    assert "".join(event.delta for event in rest if event.type == "response.output_text.delta") == "b c"
    assert dumped(begun + rest) == dumped(list(sdk.responses.retrieve(name, stream=True)))


def test_the_clients_account_of_an_older_stream_starts_over(
    sdk: openai.OpenAI, worker: PretendWorker
) -> None:
    """`responses.stream(response_id=…)` sends no cursor: it wants `response.created`, and shows what is new to it."""
    with worker.answering():
        said = sdk.responses.create(model=MODEL, input="a b", background=True)
        with sdk.responses.stream(response_id=said.id) as stream:
            assert next(iter(stream)).type == "response.created"
            assert stream.get_final_response().output_text == "a b "
    with sdk.responses.stream(response_id=said.id, starting_after=5) as stream:
        assert [event.sequence_number for event in stream] == list(range(6, 11))


def test_a_conversation_goes_on_by_its_last_response(
    sdk: openai.OpenAI, worker: PretendWorker, lifecycle: Lifecycle
) -> None:
    """`previous_response_id`."""
    with worker.answering():
        first = sdk.responses.create(model=MODEL, input="one", instructions="old")
        second = sdk.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    told = lifecycle.get(second.id.replace("resp_", "job_")).request.messages or ()
    assert [(each.role, each.text) for each in told] == [
        ("user", "one"),
        ("assistant", "one "),
        ("user", "two"),
    ]


@pytest.mark.parametrize("chained", [True, False])
def test_a_loop_of_tools(
    sdk: openai.OpenAI, worker: PretendWorker, lifecycle: Lifecycle, chained: bool
) -> None:
    """The call, its result, the answer: by the response's id, or with all that was said sent again."""
    asked: Any = [{"role": "user", "content": "1 and 1?"}]
    begun = sdk.responses.create(model=MODEL, input=asked, tools=[TOOL], background=True)
    held = worker.claim()
    worker.say(held, "", reasoning="hm")
    worker.complete(held, "", "tool_calls", reasoning="hm", tool_calls=[CALL])
    said = until_ended(sdk, begun.id)
    call = said.output[-1]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1})
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "2"}
    with worker.answering():
        if chained:
            last = sdk.responses.create(
                model=MODEL, input=[result], tools=[TOOL], previous_response_id=said.id
            )
        else:
            again: Any = [*asked, *(item.to_dict() for item in said.output), result]
            last = sdk.responses.create(model=MODEL, input=again, tools=[TOOL])
    assert last.output_text == "2 "
    told = lifecycle.get(last.id.replace("resp_", "job_")).request.messages or ()
    assert [each.model_dump(exclude_none=True) for each in told] == [
        {"role": "user", "content": "1 and 1?"},
        {"role": "assistant", "reasoning_content": "hm", "tool_calls": (CALL,)},
        {"role": "tool", "content": "2", "tool_call_id": "call_1"},
    ]


def test_a_call_is_streamed(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """The client's own account takes its arguments, and ends with it."""
    begun = sdk.responses.create(model=MODEL, input="q", tools=[TOOL], background=True)
    held = worker.claim()
    worker.complete(held, "", "tool_calls", tool_calls=[CALL])
    with sdk.responses.stream(response_id=begun.id) as stream:
        events = list(stream)
        (call,) = stream.get_final_response().output
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert [event.snapshot for event in deltas] == ['{"a": 1}']
    assert call.type == "function_call"


def test_a_response_cut_by_its_bound_says_so(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """`incomplete`, with the reason."""
    said = sdk.responses.create(model=MODEL, input="q", background=True, max_output_tokens=1)
    held = worker.claim()
    worker.say(held, "a")
    worker.run_out(held, "a")
    ended = until_ended(sdk, said.id)
    assert (ended.status, ended.output_text, ended.max_output_tokens) == ("incomplete", "a", 1)
    assert ended.incomplete_details is not None
    assert ended.incomplete_details.reason == "max_output_tokens"
    assert list(sdk.responses.retrieve(said.id, stream=True))[-1].type == "response.incomplete"


def test_errors_are_those_that_the_client_names(sdk: openai.OpenAI, worker: PretendWorker) -> None:
    """By status; one that befalls a response in the background is in it."""
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.responses.retrieve("resp_01jd3x0v5f8k2m4n6p8r0s2t4v")
    assert missing.value.code == "not_found"
    with pytest.raises(openai.NotFoundError) as unserved:
        sdk.responses.create(model="other", input="a")
    assert (unserved.value.code, unserved.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.responses.create(model=MODEL, input="a", conversation="conv_1")
    assert bad.value.param == "conversation"
    with pytest.raises(openai.BadRequestError) as gone:
        sdk.responses.create(model=MODEL, input="a", previous_response_id="resp_01jd3x0v5f8k2m4n6p8r0s2t4v")
    assert gone.value.param == "previous_response_id"
    with worker.answering():
        with pytest.raises(openai.InternalServerError) as failed:
            sdk.responses.create(model=MODEL, input="fail")
        assert (failed.value.status_code, failed.value.code) == (503, "insufficient_memory")
        *_, last = sdk.responses.create(model=MODEL, input="break", stream=True)
        ended = until_ended(sdk, sdk.responses.create(model=MODEL, input="fail", background=True).id)
    assert last.type == "response.failed"
    for said in (last.response, ended):
        assert said.error is not None
        assert said.error.code == "server_error"
        assert said.error.to_dict()["cause"] == "insufficient_memory"


def test_a_quota_is_a_rate_limit(sdk: openai.OpenAI, worker: PretendWorker, lifecycle: Lifecycle) -> None:
    """The client's class for it, and OpenAI's code inside of a response."""
    error = ClientError("rate_limit_exceeded", "the key's quota", retry_after=3)
    said = sdk.responses.create(model=MODEL, input="a", background=True)
    worker.fail(worker.claim(), error)
    ended = until_ended(sdk, said.id)
    assert ended.error is not None
    assert ended.error.code == "rate_limit_exceeded"


def test_a_client_that_leaves_its_stream_cancels_its_response(
    sdk: openai.OpenAI, worker: PretendWorker, lifecycle: Lifecycle
) -> None:
    """Unless it is in the background."""
    with worker.answering():
        with sdk.responses.create(model=MODEL, input="stall", stream=True) as stream:
            next(iter(stream))
        wait_until(lambda: lifecycle.page().records[0].state is State.CANCELLED, "cancelled")


def test_the_asynchronous_client_does_it_all(url: str, worker: PretendWorker) -> None:
    """Waiting, streaming, in the background, by its own account, at once."""

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as sdk:

            async def wait() -> str:
                return (await sdk.responses.create(model=MODEL, input="waits")).output_text

            async def stream() -> str:
                events = await sdk.responses.create(model=MODEL, input="streams", stream=True)
                return "".join([e.delta async for e in events if e.type == "response.output_text.delta"])

            async def account() -> str:
                async with sdk.responses.stream(model=MODEL, input="counts") as events:
                    return (await events.get_final_response()).output_text

            async def later() -> str:
                said = await sdk.responses.create(model=MODEL, input="later", background=True)
                async with sdk.responses.stream(response_id=said.id) as events:
                    await events.get_final_response()
                found = await sdk.responses.retrieve(said.id)
                items = [item.id async for item in sdk.responses.input_items.list(said.id)]
                await sdk.responses.delete(said.id)
                return f"{found.output_text}{len(items)}"

            return await asyncio.gather(*(each() for each in (wait, stream, account, later) * 3))

    with worker.answering():
        assert asyncio.run(ask()) == ["waits ", "streams ", "counts ", "later 1"] * 3


class Sum(BaseModel):
    """What a model is to say."""

    total: int


@pytest.mark.skipif(
    "response_format" not in JobRequest.model_fields, reason="answers are not held to schemas here"
)
def test_an_answer_is_parsed(sdk: openai.OpenAI, worker: PretendWorker, lifecycle: Lifecycle) -> None:
    """`responses.parse` sends a schema, which the job has in the chat's form."""
    with worker.answering():
        said = sdk.responses.parse(model=MODEL, input='{"total":2}', text_format=Sum)
    assert said.output_parsed == Sum(total=2)
    asked: Any = lifecycle.get(said.id.replace("resp_", "job_")).envelope["request"]["response_format"]
    assert (asked["type"], asked["json_schema"]["name"]) == ("json_schema", "Sum")
    assert asked["json_schema"]["schema"]["required"] == ["total"]
