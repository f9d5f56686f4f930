"""The official client's responses and webhooks against everything that `tidegate up` starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from tests.contract.receiver import Receiver, receiving
from tests.e2e.test_openai import FORCED, TOOL, Answer
from tests.e2e.whole import MODEL
from tests.waiting import wait_until

ASKED: Any = {
    "model": MODEL,
    "input": "What is the capital of France?",
    "temperature": 0,
    "max_output_tokens": 16,
}
LONG: Any = ASKED | {"max_output_tokens": 300}
FUNCTION: Any = {"type": "function"} | TOOL["function"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks go."""
    with receiving() as made:
        yield made


def until_ended(sdk: openai.OpenAI, name: str) -> Response:
    """Poll a response, as its users do."""
    wait_until(
        lambda: sdk.responses.retrieve(name).status not in {"queued", "in_progress"}, f"{name} ended", 60
    )
    return sdk.responses.retrieve(name)


def text_of(events: list[ResponseStreamEvent]) -> str:
    """The text that a stream's events bring."""
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_a_response_is_waited_for(sdk: openai.OpenAI) -> None:
    """Cut by its bound, it says so; found again, its input with it, until it is deleted."""
    said = sdk.responses.create(**ASKED, instructions="Be brief.", metadata={"k": "v"})
    assert (said.status, said.metadata, said.instructions) == ("incomplete", {"k": "v"}, "Be brief.")
    assert said.incomplete_details is not None
    assert said.incomplete_details.reason == "max_output_tokens"
    assert said.output_text
    assert said.usage is not None and said.usage.output_tokens == 16
    assert sdk.responses.retrieve(said.id).to_dict() == said.to_dict()
    (item,) = sdk.responses.input_items.list(said.id)
    assert item.to_dict()["content"] == [{"type": "input_text", "text": ASKED["input"]}]
    sdk.responses.delete(said.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(said.id)


def test_a_response_is_streamed(sdk: openai.OpenAI) -> None:
    """Every event in its order and under its number, the text that is told when it is waited for."""
    text = sdk.responses.create(**ASKED).output_text
    with sdk.responses.create(**ASKED, stream=True) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
    assert kinds[-4:-1] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    assert text_of(events) == text
    with sdk.responses.stream(**ASKED, extra_body={"stop": text[8:10]}) as account:
        said = account.get_final_response()
    assert (said.status, said.output_text) == ("completed", text[:8])


def test_a_conversation_goes_on(sdk: openai.OpenAI) -> None:
    """By `previous_response_id`: what the model is told is what it is told when all is sent again."""
    first = sdk.responses.create(**ASKED)
    second = sdk.responses.create(**ASKED | {"input": "Why?"}, previous_response_id=first.id)
    turns: Any = [
        {"role": "user", "content": ASKED["input"]},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Why?"},
    ]
    again = sdk.responses.create(**ASKED | {"input": turns})
    assert second.previous_response_id == first.id
    assert second.output_text == again.output_text != first.output_text
    assert second.usage is not None and again.usage is not None
    assert second.usage.input_tokens == again.usage.input_tokens


def test_a_response_in_the_background_is_polled(sdk: openai.OpenAI) -> None:
    """Its answer is that of one that is waited for."""
    said = sdk.responses.create(**ASKED, background=True)
    assert said.background is True
    assert said.status in {"queued", "in_progress"}
    ended = until_ended(sdk, said.id)
    assert ended.output_text == sdk.responses.create(**ASKED).output_text


def test_a_response_in_the_background_is_cancelled(sdk: openai.OpenAI) -> None:
    """While it runs: its text so far stays; cancelled again it is the same."""
    said = sdk.responses.create(**ASKED | {"max_output_tokens": 100_000}, background=True)
    wait_until(lambda: sdk.responses.retrieve(said.id).status == "in_progress", "it runs")
    assert sdk.responses.cancel(said.id).status == "cancelled"
    again = sdk.responses.cancel(said.id)
    assert again.status == "cancelled"
    *_, last = sdk.responses.retrieve(said.id, stream=True)
    assert last.sequence_number > 0


def test_a_stream_that_is_cut_goes_on_where_it_was(sdk: openai.OpenAI) -> None:
    """By `starting_after`, without a gap or a repeat: both parts are the stream as it is read from its beginning."""
    begun: list[ResponseStreamEvent] = []
    with sdk.responses.create(**LONG, background=True, stream=True) as stream:
        for event in stream:
            begun.append(event)
            if event.type == "response.output_text.delta" and len(begun) >= 12:
                break
    assert begun[0].type == "response.created"
    name = begun[0].response.id
    with sdk.responses.retrieve(name, stream=True, starting_after=begun[-1].sequence_number) as stream:
        rest = list(stream)
    assert rest[0].sequence_number == begun[-1].sequence_number + 1
    assert rest[-1].type == "response.incomplete"
    whole = list(sdk.responses.retrieve(name, stream=True))
    assert [event.to_dict() for event in begun + rest] == [event.to_dict() for event in whole]
    assert text_of(begun + rest) == rest[-1].response.output_text == sdk.responses.retrieve(name).output_text


def test_the_clients_account_is_taken_up_by_an_id(sdk: openai.OpenAI) -> None:
    """`responses.stream(response_id=…)`, while it runs and when it has ended, and from a number on."""
    mark = sdk.responses.create(**LONG).output_text[-12:]
    said = sdk.responses.create(**LONG, background=True, extra_body={"stop": mark})
    with sdk.responses.stream(response_id=said.id) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert events[0].type == "response.created"
    assert final.output_text == sdk.responses.retrieve(said.id).output_text
    assert len(final.output_text) > 100
    with sdk.responses.stream(response_id=said.id, starting_after=5) as stream:
        later = list(stream)
    assert [event.sequence_number for event in later] == [event.sequence_number for event in events[6:]]
    with sdk.responses.stream(response_id=said.id) as stream:
        assert stream.get_final_response().output_text == final.output_text


def test_an_answer_has_the_form_that_was_asked_for(sdk: openai.OpenAI) -> None:
    """`responses.parse` makes an object of it."""
    said = sdk.responses.parse(**LONG, text_format=Answer)
    assert said.status == "completed"
    assert isinstance(said.output_parsed, Answer)


def test_a_loop_of_tools(sdk: openai.OpenAI) -> None:
    """A forced call is a real one; its result goes back by the response's id."""
    choice: Any = {"type": "function", "name": FORCED["function"]["name"]}
    said = sdk.responses.create(**LONG, tools=[FUNCTION], tool_choice=choice)
    (call,) = said.output
    assert call.type == "function_call"
    assert (call.name, said.status) == ("weather", "completed")
    assert json.loads(call.arguments)["place"] in {"Paris", "Rome"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    last = sdk.responses.create(
        **ASKED | {"input": [result]}, tools=[FUNCTION], previous_response_id=said.id, tool_choice="none"
    )
    assert last.output_text


def test_a_response_tells_its_end_by_a_webhook(sdk: openai.OpenAI, receiver: Receiver) -> None:
    """One in the background, so that nobody has to poll; `webhooks.unwrap` verifies it and names its class."""
    said = sdk.responses.create(**ASKED, background=True, extra_body={"webhook": receiver.url})
    wait_until(lambda: receiver.requests, "the webhook", 20)
    (request,) = receiver.requests
    event = sdk.webhooks.unwrap(request.body, request.headers)
    assert event.type == "response.incomplete"
    assert type(event).__name__ == "ResponseIncompleteWebhookEvent"
    assert event.data.id == said.id
    assert sdk.responses.retrieve(event.data.id).status == "incomplete"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        sdk.webhooks.unwrap(request.body + b" ", request.headers)


def test_a_batch_tells_its_end_by_a_webhook(sdk: openai.OpenAI, receiver: Receiver) -> None:
    """Likewise, when its files are there."""
    line = {"custom_id": "one", "method": "POST", "url": "/v1/responses", "body": ASKED}
    file = sdk.files.create(file=("lines.jsonl", json.dumps(line).encode()), purpose="batch")
    begun = sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/responses",
        completion_window="24h",
        extra_body={"webhook": receiver.url},
    )
    wait_until(lambda: receiver.requests, "the webhook", 30)
    (request,) = receiver.requests
    event = sdk.webhooks.unwrap(request.body, request.headers)
    assert (event.type, event.data.id) == ("batch.completed", begun.id)
    wait_until(
        lambda: (sdk.batches.retrieve(begun.id).model_extra or {})["webhook"]["status"] == "delivered", "told"
    )
    batch = sdk.batches.retrieve(begun.id)
    assert batch.output_file_id is not None
    said = json.loads(sdk.files.content(batch.output_file_id).text)
    assert Response.model_validate(said["response"]["body"]).output_text
