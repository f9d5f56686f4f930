"""What a request may say, and which field is named where it may not."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from scheduler.errors import ClientError
from scheduler.request import MAX_TEXT_BYTES, JobRequest, read_request

SAY = [{"role": "user", "content": "hi"}]


def ask(**fields: Any) -> dict[str, Any]:
    """A request with a prompt."""
    return {"model": "m", "prompt": "hi"} | fields


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    """A request with messages."""
    return {"model": "m", "messages": list(messages)} | fields


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (None, None),
        ([], None),
        ("a request", None),
        ({}, "model"),
        (ask(model=""), "model"),
        (ask(model="m" * 257), "model"),
        (ask(model=5), "model"),
        (ask(model="\ud800"), "model"),
        ({"model": "m"}, "messages"),
        (ask(prompt=None), "messages"),
        (ask(messages=SAY), "prompt"),
        (ask(prompt=""), "prompt"),
        (ask(prompt=["a"]), "prompt"),
        (ask(prompt="\ud800"), "prompt"),
        (ask(prompt="a" * (MAX_TEXT_BYTES + 1)), "prompt"),
        (chat({"role": "user", "content": "a" * (MAX_TEXT_BYTES + 1)}), "messages"),
        (chat(), "messages"),
        (chat(*SAY * 4097), "messages"),
        (chat("hi"), "messages.0"),
        (chat({"content": "hi"}), "messages.0.role"),
        (chat({"role": "king", "content": "hi"}), "messages.0.role"),
        (chat({"role": "user"}), "messages.0"),
        (chat({"role": "user", "content": None}), "messages.0"),
        (chat({"role": "user", "content": 5}), "messages.0.content"),
        (chat(*SAY, {"role": "user", "content": {"a": 1}}), "messages.1.content"),
        (chat({"role": "user", "content": ["a"]}), "messages.0.content.0"),
        (chat({"role": "user", "content": [{"type": "text", "text": 5}]}), "messages.0.content.0.text"),
        (chat({"role": "user", "content": [{"text": "a"}, {"type": 5}]}), "messages.0.content.1.type"),
        (chat({"role": "king", "content": [{"type": 5}]}), "messages.0.role"),
        (ask(tools=[{}]), "tools"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(max_tokens=-1), "max_tokens"),
        (ask(max_tokens=1.5), "max_tokens"),
        (ask(max_tokens=(1 << 20) + 1), "max_tokens"),
        (ask(max_tokens=math.inf), "max_tokens"),
        (ask(temperature=-0.1), "temperature"),
        (ask(temperature=2.1), "temperature"),
        (ask(temperature=math.nan), "temperature"),
        (ask(temperature=math.inf), "temperature"),
        (ask(top_p=0), "top_p"),
        (ask(top_p=math.nan), "top_p"),
        (ask(top_k=-1), "top_k"),
        (ask(min_p=1.1), "min_p"),
        (ask(repetition_penalty=0), "repetition_penalty"),
        (ask(repetition_penalty=math.nan), "repetition_penalty"),
        (ask(presence_penalty=3), "presence_penalty"),
        (ask(frequency_penalty=-3), "frequency_penalty"),
        (ask(logit_bias={"5": 101}), "logit_bias.5"),
        (ask(logit_bias={"5": math.nan}), "logit_bias.5"),
        (ask(logit_bias={"-1": 1}), "logit_bias.-1"),
        (ask(logit_bias={str(1 << 32): 1}), "logit_bias.4294967296"),
        (ask(logit_bias={"9" * 5000: 1}), "logit_bias." + "9" * 5000),
        (ask(logit_bias=dict.fromkeys(map(str, range(1025)), 1)), "logit_bias"),
        (ask(model=None), "model"),
        (ask(best_of=None), "best_of"),
        (ask(seed=1 << 64), "seed"),
        (ask(seed=-(1 << 63) - 1), "seed"),
        (ask(stop=""), "stop.0"),
        (ask(stop=["a", ""]), "stop.1"),
        (ask(stop=[5]), "stop.0"),
        (ask(stop=["a"] * 17), "stop"),
        (ask(stop="s" * 257), "stop.0"),
        (ask(stop={"a": 1}), "stop"),
        (ask(logprobs=21), "logprobs"),
        (ask(priority="urgent"), "priority"),
        (ask(queue_timeout=0), "queue_timeout"),
        (ask(queue_timeout=math.nan), "queue_timeout"),
        (ask(run_timeout=math.inf), "run_timeout"),
        (ask(on_insufficient_memory="pray"), "on_insufficient_memory"),
        (ask(max_attempts=0), "max_attempts"),
        (ask(max_attempts=21), "max_attempts"),
        (ask(metadata={"a": 5}), "metadata.a"),
        (ask(metadata={"a": "v" * 513}), "metadata.a"),
        (ask(metadata=dict.fromkeys(map(str, range(17)), "v")), "metadata"),
        (ask(stream="perhaps"), "stream"),
        (ask(best_of=2), "best_of"),
        (ask(attempt=9), "attempt"),
    ],
)
def test_a_bad_field_is_named(data: object, param: str | None) -> None:
    """``invalid_request``, whose ``param`` is the field's dotted path, and whose message names it too."""
    with pytest.raises(ClientError) as caught:
        read_request(data)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert caught.value.message.startswith(f"{param}: " if param else "")
    json.dumps(caught.value.body(), allow_nan=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (chat(), "messages: at least one message is needed"),
        (
            chat({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
            "messages.0.content.0.type: only text parts are taken",
        ),
        ({"model": "m"}, "messages: this or prompt is needed"),
        (ask(messages=SAY), "prompt: give this or messages, not both"),
        (ask(tools=[]), "tools: these need messages"),
    ],
)
def test_a_fault_is_told_in_words_of_the_api(data: object, message: str) -> None:
    """Not in the names of Python's types."""
    with pytest.raises(ClientError) as caught:
        read_request(data)
    assert caught.value.message == message


def test_null_says_nothing() -> None:
    """Each field that may be left out may be null instead."""
    optional = {name: None for name, field in JobRequest.model_fields.items() if not field.is_required()}
    assert read_request(optional | ask()) == read_request(ask())


def test_every_token_of_32_bits_can_be_biased() -> None:
    """The model's own vocabulary is the worker's to know."""
    bias = {str(token): 1 for token in (0, (1 << 32) - 1)}
    assert read_request(ask(logit_bias=bias)).logit_bias == {0: 1.0, (1 << 32) - 1: 1.0}


@pytest.mark.parametrize(
    ("given", "stops"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), ("é\n", ("é\n",))]
)
def test_stop_is_one_string_or_several(given: object, stops: tuple[str, ...]) -> None:
    """As in OpenAI's API; none and null are the same."""
    assert read_request(ask(stop=given)).stop == stops


@pytest.mark.parametrize(("given", "count"), [(None, None), (False, None), (True, 0), (0, 0), (20, 20)])
def test_logprobs_is_a_flag_or_a_count(given: object, count: int | None) -> None:
    """Chat's flag and completions' count are both taken."""
    assert read_request(ask(logprobs=given)).logprobs == count


def test_text_has_a_limit_in_bytes() -> None:
    """4 MiB of UTF-8 are taken, a byte more is not; a letter of two bytes counts as two."""
    assert read_request(ask(prompt="a" * MAX_TEXT_BYTES)).text_bytes == MAX_TEXT_BYTES
    for prompt in ("a" * (MAX_TEXT_BYTES + 1), "é" * (MAX_TEXT_BYTES // 2 + 1)):
        with pytest.raises(ClientError, match="bytes; at most 4,194,304 are taken"):
            read_request(ask(prompt=prompt))


@pytest.mark.parametrize(
    "data",
    [
        chat({"role": "user", "content": "a" * MAX_TEXT_BYTES}),
        chat(*[{"role": "user", "content": "a" * (1 << 20)}] * 4),
        chat({"role": "user", "content": "a", "extra": "a" * MAX_TEXT_BYTES}),
        chat(*SAY, tools=[{"type": "function", "description": "a" * MAX_TEXT_BYTES}]),
        chat({"role": "assistant", "tool_calls": [{"arguments": "a" * MAX_TEXT_BYTES}]}),
        chat({"role": "user", "content": [{"type": "text", "text": "a" * MAX_TEXT_BYTES}]}),
    ],
    ids=["one", "many", "extra field", "tools", "tool calls", "parts"],
)
def test_text_cannot_hide_from_its_limit(data: object) -> None:
    """Whatever a template can put into the prompt counts."""
    with pytest.raises(ClientError, match="bytes; at most"):
        read_request(data)


def test_a_deeply_nested_tool_is_refused_not_fatal() -> None:
    """Depth that the serializer cannot follow is the client's error."""
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ClientError):
        read_request(chat(*SAY, tools=[deep]))


def test_fields_that_a_template_may_read_stay_with_their_message() -> None:
    """A message's own extra fields go through; a developer speaks as the system."""
    data = chat(
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"text": "b"}], "mood": "calm"}
    )
    message = (read_request(data).messages or ())[0]
    assert message.for_template() == {"role": "system", "content": "ab", "mood": "calm"}


def test_a_tool_call_needs_no_content() -> None:
    """An assistant's turn that only calls tools is a turn, with empty text."""
    data = chat({"role": "assistant", "tool_calls": [{"id": "1"}]})
    message = (read_request(data).messages or ())[0]
    assert message.for_template()["content"] == ""


@pytest.mark.parametrize("data", [ask(prompt="a"), ask(prompt="語" * 1000), chat(*SAY), chat(*SAY * 100)])
def test_the_least_estimate_is_below_the_likely_one(data: object) -> None:
    """What refuses a job for good never sees more tokens than what merely plans."""
    request = read_request(data)
    assert 1 <= request.prompt_tokens_least <= request.prompt_tokens_likely


@pytest.mark.parametrize(
    ("sent", "rendered"),
    [
        ('{"at": "é"}', {"at": "é"}),
        ("{}", {}),
        ("[1]", "[1]"),
        ("not json", "not json"),
        ({"at": 1}, {"at": 1}),
        (None, None),
    ],
)
def test_a_templates_calls_have_objects_as_arguments(sent: object, rendered: object) -> None:
    """Clients send them as JSON; what is no object is left as it came."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": sent}}
    message = (read_request(chat({"role": "assistant", "tool_calls": [call]})).messages or ())[0]
    (said,) = message.for_template()["tool_calls"]
    assert said["function"].get("arguments") == rendered
    assert call["function"]["arguments"] == sent
