"""The official client against everything that `tidegate up` starts: chats, completions, tools, models, files, batches."""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.e2e.whole import MODEL, Whole
from tests.waiting import wait_until

SAID: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"model": MODEL, "messages": SAID, "temperature": 0, "max_tokens": 16}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "maximum": 9}},
            "required": ["place", "days"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
FORCED: Any = {"type": "function", "function": {"name": "weather"}}


class City(StrEnum):
    """One of two."""

    PARIS = "Paris"
    ROME = "Rome"


class Answer(BaseModel):
    """What an answer is parsed into."""

    city: City
    sure: bool


def test_a_chat_is_waited_for(sdk: openai.OpenAI) -> None:
    """Whole, counted, and the same every time."""
    said = sdk.chat.completions.create(**GREEDY)
    (choice,) = said.choices
    assert said.id.startswith("chatcmpl-")
    assert (said.object, said.model) == ("chat.completion", MODEL)
    assert choice.message.role == "assistant"
    assert len(choice.message.content or "") == 16, "a token is a byte"
    assert choice.finish_reason == "length"
    assert said.usage is not None
    assert (said.usage.completion_tokens, said.usage.total_tokens) == (16, said.usage.prompt_tokens + 16)
    assert sdk.chat.completions.create(**GREEDY).choices[0].message.content == choice.message.content


def test_a_chat_is_streamed(sdk: openai.OpenAI) -> None:
    """The role, the same text as when it is waited for, the reason of its end, and then what it took."""
    # Many steps: those that come faster than they are told go together.
    long = GREEDY | {"max_tokens": 300}
    whole = sdk.chat.completions.create(**long)
    with sdk.chat.completions.create(**long, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    *told, last = chunks
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert told[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in told] == [None] * (len(told) - 1) + ["length"]
    assert all(chunk.usage is None for chunk in told)
    assert last.choices == []
    assert last.usage is not None and last.usage.completion_tokens == 300
    assert len(told) > 3, "it comes as it is made"


def test_the_streams_helper_gives_the_completion(sdk: openai.OpenAI) -> None:
    """`chat.completions.stream`, whose events and end are the client's own account; one that was cut it raises."""
    text = sdk.chat.completions.create(**GREEDY).choices[0].message.content or ""
    with sdk.chat.completions.stream(**GREEDY, stop=text[8:10]) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        said = stream.get_final_completion()
    assert "".join(deltas) == said.choices[0].message.content == text[:8]
    assert said.choices[0].finish_reason == "stop"
    with sdk.chat.completions.stream(**GREEDY) as cut, pytest.raises(openai.LengthFinishReasonError):
        cut.get_final_completion()


def test_logprobs_are_those_of_the_text(sdk: openai.OpenAI) -> None:
    """One for each token with its bytes, the likeliest first; a greedy answer is made of the likeliest."""
    said = sdk.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    logprobs = said.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert bytes(byte for each in logprobs.content for byte in each.bytes or ()).decode() == (
        said.choices[0].message.content
    )
    for each in logprobs.content:
        assert len(each.top_logprobs) == 3
        assert each.top_logprobs[0].token == each.token
        assert 0 >= each.top_logprobs[0].logprob >= each.top_logprobs[1].logprob
    stream = sdk.chat.completions.create(**GREEDY, logprobs=True, stream=True)
    streamed = [
        token.token
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs is not None
        for token in choice.logprobs.content or ()
    ]
    assert streamed == [each.token for each in logprobs.content]


def test_two_choices_are_two_answers(sdk: openai.OpenAI) -> None:
    """By index, each its own; waiting and streamed, from one seed they are the same."""
    asked = GREEDY | {"n": 2, "temperature": 1, "seed": 7}
    said = sdk.chat.completions.create(**asked)
    texts = [choice.message.content for choice in said.choices]
    assert [choice.index for choice in said.choices] == [0, 1]
    assert texts[0] != texts[1]
    assert said.usage is not None and said.usage.completion_tokens == 32
    streamed = {0: "", 1: ""}
    for chunk in sdk.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert list(streamed.values()) == texts


def test_an_answer_has_the_form_that_was_asked_for(sdk: openai.OpenAI) -> None:
    """A schema, though the model's weights are noise; so `parse` makes an object of it."""
    schema = Answer.model_json_schema() | {"additionalProperties": False}
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    said = sdk.chat.completions.create(**GREEDY | {"max_tokens": 400}, response_format=form)
    assert said.choices[0].finish_reason == "stop"
    Answer.model_validate_json(said.choices[0].message.content or "")
    parsed = sdk.chat.completions.parse(**GREEDY | {"max_tokens": 400}, response_format=Answer)
    assert isinstance(parsed.choices[0].message.parsed, Answer)


def test_a_forced_call_is_a_real_one(sdk: openai.OpenAI) -> None:
    """Its arguments are of the tool's schema; they are streamed; with the tool's answer the chat goes on."""
    asked = GREEDY | {"max_tokens": 400, "tools": [TOOL], "tool_choice": FORCED}
    said = sdk.chat.completions.create(**asked).choices[0]
    assert said.finish_reason == "tool_calls"
    (call,) = said.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["place"] in {"Paris", "Rome"} and isinstance(arguments["days"], int)
    with sdk.chat.completions.stream(**asked) as stream:
        (again,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert again.function.parsed_arguments == arguments
    turns = [*SAID, said.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    last = sdk.chat.completions.create(**GREEDY | {"messages": turns}, tools=[TOOL])
    assert last.choices[0].message.content


def test_a_completion_of_several_prompts(sdk: openai.OpenAI) -> None:
    """Waiting and streamed; each is the prompt's very next letters, so that a space which begins them is not lost."""
    asked: Any = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    first, second = sdk.completions.create(**asked, prompt=["Once", "Twice"]).choices
    assert (first.index, second.index) == (0, 1)
    assert first.text != second.text
    assert {len(first.text), len(second.text)} == {8}
    blank = sdk.completions.create(**asked, prompt="Once", logit_bias={"32": 100})
    assert blank.choices[0].text == " " * 8
    stream = sdk.completions.create(
        **asked, prompt="Once", stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == first.text
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8


def test_models_are_listed(sdk: openai.OpenAI) -> None:
    """The one that is served."""
    assert [model.id for model in sdk.models.list()] == [MODEL]
    model = sdk.models.retrieve(MODEL)
    assert (model.object, model.owned_by) == ("model", "tidegate")
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def lines(count: int) -> list[dict[str, Any]]:
    """Lines of a batch's input."""
    return [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": GREEDY | {"messages": [{"role": "user", "content": f"Say {number}."}]},
        }
        for number in range(count)
    ]


def upload(sdk: openai.OpenAI, asked: list[dict[str, Any]]) -> openai.types.FileObject:
    """Lines as a file."""
    text = "".join(json.dumps(each) + "\n" for each in asked)
    return sdk.files.create(file=("lines.jsonl", text.encode()), purpose="batch")


def until_ended(sdk: openai.OpenAI, batch_id: str) -> openai.types.Batch:
    """Poll a batch, as its users do."""
    running = {"validating", "in_progress", "finalizing", "cancelling"}
    wait_until(lambda: sdk.batches.retrieve(batch_id).status not in running, f"{batch_id} ended", 60)
    return sdk.batches.retrieve(batch_id)


def read(sdk: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file."""
    assert file_id is not None
    return [json.loads(each) for each in sdk.files.content(file_id).text.splitlines()]


def test_a_batch_of_fifty_lines_with_a_bad_one(sdk: openai.OpenAI) -> None:
    """Forty-nine answers, one error, each under its name; an answer is what the route itself says."""
    asked = lines(50)
    asked[31]["body"]["top_p"] = 7
    file = upload(sdk, asked)
    begun = sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"night": "first"},
    )
    batch = until_ended(sdk, begun.id)
    assert (batch.status, batch.metadata) == ("completed", {"night": "first"})
    counts = batch.request_counts
    assert counts is not None and (counts.total, counts.completed, counts.failed) == (50, 49, 1)
    said = {each["custom_id"]: each["response"] for each in read(sdk, batch.output_file_id)}
    assert list(said) == [each["custom_id"] for each in asked if each is not asked[31]]
    assert {response["status_code"] for response in said.values()} == {200}
    for response in said.values():
        completion = openai.types.chat.ChatCompletion.model_validate(response["body"])
        assert completion.usage is not None and completion.usage.completion_tokens == 16
    same = sdk.chat.completions.create(**asked[8]["body"]).choices[0].message.content
    assert said["line-8"]["body"]["choices"][0]["message"]["content"] == same
    (bad,) = read(sdk, batch.error_file_id)
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("line-31", 400)
    assert bad["response"]["body"]["error"]["param"] == "top_p"
    assert begun.id in [each.id for each in sdk.batches.list(limit=5)]


def test_a_batch_is_cancelled(sdk: openai.OpenAI) -> None:
    """What it had made is written, the rest is told as cancelled."""
    asked = lines(40)
    for each in asked:
        each["body"] = each["body"] | {"max_tokens": 4000}
    file = upload(sdk, asked)
    begun = sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    wait_until(lambda: sdk.batches.retrieve(begun.id).status == "in_progress", "it runs", 20)
    assert sdk.batches.cancel(begun.id).status in {"cancelling", "cancelled"}
    batch = until_ended(sdk, begun.id)
    assert batch.status == "cancelled"
    made = read(sdk, batch.output_file_id) if batch.output_file_id else []
    errors = read(sdk, batch.error_file_id)
    assert len(made) + len(errors) == 40
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}


def test_files_are_kept(sdk: openai.OpenAI) -> None:
    """Made, listed, looked at, read, deleted."""
    file = upload(sdk, lines(2))
    assert (file.purpose, file.filename, file.status) == ("batch", "lines.jsonl", "processed")
    assert file.id in [each.id for each in sdk.files.list(purpose="batch")]
    assert sdk.files.retrieve(file.id).bytes == file.bytes
    content = sdk.files.content(file.id).read()
    assert len(content) == file.bytes
    assert [json.loads(each)["custom_id"] for each in content.splitlines()] == ["line-0", "line-1"]
    assert sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(file.id)


def test_many_chats_at_once(running: Whole) -> None:
    """Thirty by one asynchronous client, half of them streams: each gets the answer that it gets alone."""

    async def ask() -> None:
        key = running.keys["main"]
        async with openai.AsyncOpenAI(base_url=running.url, api_key=key, max_retries=0, timeout=60) as sdk:

            async def wait(number: int) -> str:
                asked = lines(number + 1)[number]["body"]
                if number % 2:
                    stream = await sdk.chat.completions.create(**asked, stream=True)
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
                return (await sdk.chat.completions.create(**asked)).choices[0].message.content or ""

            alone = [await wait(number) for number in range(6)]
            together = await asyncio.gather(*(wait(number) for number in [*range(6)] * 5))
            assert together == alone * 5

    asyncio.run(ask())
