"""Answers held to a form by a real engine: they always parse, alone, in company and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.random_models import write_random_llama, write_random_model
from tests.engines import Talk, engine

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["calm", "é", "wild"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}
SAMPLING: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 1.2, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
    {"temperature": 0.8, "repetition_penalty": 1.2, "logit_bias": {"101": 3.0}, "logprobs": 2},
]


def form(schema: object) -> dict[str, Any]:
    """A response format with a strict schema."""
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}


def tool(name: str, parameters: Any = PERSON) -> dict[str, Any]:
    """A tool as OpenAI's clients describe it."""
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """One engine for the module."""
    with engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(params=["never stops", "may stop"])
def talk(shared: Talk, request: pytest.FixtureRequest, tiny_model: Path, stopping: Path) -> Iterator[Talk]:
    """The module's engine with a model loaded: one that never ends an answer by itself, or one that may at any letter."""
    shared.revive(tiny_model)
    if not shared.of("loaded", model="stopping"):
        shared.load(stopping, "stopping")
    shared.model = "tiny" if request.param == "never stops" else "stopping"  # type: ignore[attr-defined]
    yield shared
    shared.drain()


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama whose end token is as likely as any letter."""
    return write_random_llama(tmp_path_factory.mktemp("stopping"))


def ask(talk: Talk, **fields: Any) -> str:
    """Start a job with a form; its key."""
    return talk.run(**{"model": talk.model, "max_tokens": 600, "response_format": form(PERSON)} | fields)  # type: ignore[attr-defined]


def is_person(text: str) -> bool:
    """Whether a text is what the schema says."""
    said = json.loads(text)
    return (
        list(said) == ["name", "age", "mood"]
        and len(said["name"]) <= 12
        and 0 <= said["age"] <= 150
        and said["mood"] in {"calm", "é", "wild"}
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fields", SAMPLING, ids=range(len(SAMPLING)))
def test_an_answer_is_of_its_schema(talk: Talk, fields: dict[str, Any], seed: int) -> None:
    """Random weights write it, greedy or seeded; the answer ends where it is whole."""
    key = ask(talk, seed=seed, prompt=f"Hello {seed}", **fields)
    result = talk.result(key)
    assert is_person(result["text"])
    assert talk.sent(key) == result["text"]
    assert result["finish_reason"] == "stop"
    assert result["usage"]["completion_tokens"] == len(talk.tokens(key)) == len(result["text"].encode())


def test_a_batch_writes_what_each_job_writes_alone(talk: Talk) -> None:
    """Jobs with forms and without share it; byte for byte."""
    asked = [
        {"prompt": f"{at} " * (1 + at), "seed": at, "response_format": each, **fields, "max_tokens": 60 + at}
        for at, fields in enumerate(SAMPLING)
        for each in (form(PERSON), form(LIST), {"type": "json_object"}, None)
    ]
    alone = [talk.result(ask(talk, **fields)) for fields in asked]
    keys = [ask(talk, **fields) for fields in asked]
    assert [talk.result(key) for key in keys] == alone
    for fields, result in zip(asked, alone, strict=True):
        if fields["response_format"] and result["finish_reason"] == "stop":
            json.loads(result["text"])


@pytest.mark.parametrize("fields", SAMPLING, ids=range(len(SAMPLING)))
def test_a_job_resumed_anywhere_writes_what_it_would_have(talk: Talk, fields: dict[str, Any]) -> None:
    """The grammar is where the earlier attempt left it, its last token included."""
    calm_key = ask(talk, **fields)
    calm, tokens = talk.result(calm_key), talk.tokens(calm_key)
    cuts = [0, 1, 2, *range(5, len(tokens) - 1, 11), len(tokens) - 1, len(tokens)]
    keys = [ask(talk, so_far=tokens[:cut], **fields) for cut in cuts]
    for cut, key in zip(cuts, keys, strict=True):
        result = talk.result(key)
        assert (result["text"], result["finish_reason"]) == (calm["text"], "stop"), cut
        assert talk.tokens(key) == tokens[cut:]


def test_an_answer_too_long_is_cut_as_ever(talk: Talk) -> None:
    """By its length; what is there is the beginning of what would be."""
    whole = talk.result(ask(talk))["text"]
    cut = talk.result(ask(talk, max_tokens=9))
    assert cut["finish_reason"] == "length"
    assert whole.encode().startswith(cut["text"].encode()) and cut["text"]


def test_a_schema_that_cannot_be_imposed_is_refused(talk: Talk) -> None:
    """A bad request; the engine goes on."""
    error = talk.refusal(ask(talk, response_format=form({"type": "wish"})))
    assert (error["code"], error["param"]) == ("invalid_request", "response_format")
    assert is_person(talk.result(ask(talk))["text"])


def test_a_model_that_decodes_alone_is_held_too(tmp_path: Path) -> None:
    """Models without a batch have the same processors."""
    with engine(tmp_path / "engine") as talk:
        talk.load(write_random_model(tmp_path / "model", "mamba2", never_stops=True), "alone")
        result = talk.result(talk.run(model="alone", max_tokens=600, response_format=form(PERSON)))
    assert is_person(result["text"])


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"look", "leap"}), ({"type": "function", "function": {"name": "leap"}}, {"leap"})],
)
def test_a_call_that_must_be_made_is_made(talk: Talk, choice: object, names: set[str]) -> None:
    """By a model that has no form of its own for calls: nothing but the call is written, and no text."""
    tools = [tool("look"), tool("leap")]
    key = ask(talk, **CHAT, tools=tools, tool_choice=choice, response_format=None, temperature=1.0)
    result = talk.result(key)
    (call,) = result["tool_calls"]
    assert call["function"]["name"] in names
    assert is_person(call["function"]["arguments"])
    assert (result["text"], talk.sent(key), result["finish_reason"]) == ("", "", "tool_calls")


MARKED = """{% for message in messages %}{{ message.content }}
{% for call in message.tool_calls or () %}{% set tool_call = call.function %}<tool_call>{{ tool_call.name }}
{% for name, value in tool_call.arguments.items() %}{{ name }}={{ value }}{% endfor %}</tool_call>
{% endfor %}{% endfor %}"""


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama whose template has calls as JSON between marks, as Qwen's has."""
    folder = write_random_llama(tmp_path_factory.mktemp("marked"), never_stops=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": MARKED}))
    return folder


@pytest.mark.parametrize("several", [True, False])
def test_calls_are_made_in_the_models_own_form(shared: Talk, marked: Path, several: bool) -> None:
    """Between its marks; its end is the client's, or the first call's where more are not wanted."""
    if not shared.of("loaded", model="marked"):
        shared.load(marked, "marked")
    key = shared.run(
        model="marked",
        max_tokens=1200,
        tools=[tool("look"), tool("leap")],
        tool_choice="required",
        parallel_tool_calls=several,
        temperature=1.0,
        **CHAT,
    )
    result = shared.result(key)
    assert all(is_person(call["function"]["arguments"]) for call in result["tool_calls"])
    assert bytes(shared.tokens(key)).startswith(b"<tool_call>\n")
    assert several or len(result["tool_calls"]) == 1
    assert result["finish_reason"] == ("length" if several else "tool_calls"), (
        "this model calls until it is cut"
    )


@pytest.mark.parametrize("model", ["tiny", "marked"])
def test_a_call_that_was_cut_is_told_as_text(
    shared: Talk, tiny_model: Path, marked: Path, model: str
) -> None:
    """It ended by its length, and nobody may take its half for a call."""
    shared.revive(tiny_model)
    if not shared.of("loaded", model="marked"):
        shared.load(marked, "marked")
    key = shared.run(model=model, max_tokens=50, tools=[tool("look")], tool_choice="required", **CHAT)
    result = shared.result(key)
    assert (result["finish_reason"], result.get("tool_calls")) == ("length", None)
    assert result["text"].strip().startswith('{"name": "look", "arguments": {')
    assert shared.sent(key) == result["text"]


def test_calls_that_clients_send_back_are_objects_to_a_template(shared: Talk, marked: Path) -> None:
    """Whose items it may walk."""
    if not shared.of("loaded", model="marked"):
        shared.load(marked, "marked")
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "here"}'}}
    turns = [*CHAT["messages"], {"role": "assistant", "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": "c", "content": "seen"})
    key = shared.run(model="marked", messages=turns, max_tokens=2)
    rendered = shared.result(key)["usage"]["prompt_tokens"]
    call["function"] = call["function"] | {"arguments": {"at": "here"}}  # type: ignore[operator]
    assert (
        shared.result(shared.run(model="marked", messages=turns, max_tokens=2))["usage"]["prompt_tokens"]
        == rendered
    )
