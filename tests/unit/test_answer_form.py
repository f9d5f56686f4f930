"""What form an answer may be asked to have, and what of it is refused before a worker sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.answer_form import MAX_SCHEMA_BYTES
from scheduler.errors import ClientError
from scheduler.grammar import CallMarks, grammar_of
from scheduler.grammar_trial import refuse_ungrammatical
from scheduler.request import JobRequest, read_request

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}


def tool(name: str = "look", **function: Any) -> dict[str, Any]:
    """A tool as OpenAI's clients describe it."""
    return {"type": "function", "function": {"name": name, **function}}


def ask(**fields: Any) -> JobRequest:
    """A request of one message."""
    return read_request({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def schema(given: object, *, strict: bool = True, **more: Any) -> dict[str, Any]:
    """A response format with a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": given, "strict": strict, **more}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "n"}}}, "response_format"),
        ({"response_format": schema([])}, "response_format.json_schema.schema"),
        ({"response_format": schema(SCHEMA, name="a b")}, "response_format.json_schema.name"),
        ({"response_format": schema(SCHEMA, strict="yes")}, "response_format.json_schema.strict"),
        ({"response_format": schema(SCHEMA, odd=1)}, "response_format.json_schema.odd"),
        ({"response_format": schema({"const": "a" * MAX_SCHEMA_BYTES})}, "response_format.json_schema"),
        ({"tool_choice": "perhaps", "tools": [tool()]}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [tool()]}, "tool_choice"),
        ({"tool_choice": {"type": "function"}, "tools": [tool()]}, "tool_choice.function"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)
def test_a_bad_form_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """``param`` is the dotted path."""
    with pytest.raises(ClientError) as caught:
        ask(**fields)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ["look", "leap"]),
        ("auto", ["look", "leap"]),
        ("required", ["look", "leap"]),
        ("none", []),
        ({"type": "function", "function": {"name": "leap"}}, ["leap"]),
    ],
)
def test_the_choice_says_which_tools_may_be_called(given: object, names: list[str]) -> None:
    """All, none, or the one that is named."""
    request = ask(tools=[tool("look"), tool("leap")], tool_choice=given)
    assert [each["function"]["name"] for each in request.tools_to_call] == names
    assert request.must_call is (given not in (None, "auto", "none"))


def test_a_form_survives_the_queue() -> None:
    """What the worker reads back is what was asked."""
    request = ask(
        tools=[tool()],
        tool_choice={"type": "function", "function": {"name": "look"}},
        parallel_tool_calls=False,
        response_format=schema(SCHEMA),
    )
    stored = json.loads(json.dumps(request.model_dump(mode="json", exclude_defaults=True)))
    assert read_request(stored) == request


@pytest.mark.parametrize("form", [None, {"type": "text"}])
def test_text_has_no_grammar(form: dict[str, Any] | None) -> None:
    """Anything may be said."""
    request = ask(response_format=form, tools=[tool()])
    assert grammar_of(request) is None
    refuse_ungrammatical(request)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        {"response_format": schema(SCHEMA)},
        {"response_format": schema({"$ref": "#/$defs/A", "$defs": {"A": SCHEMA}})},
        {"response_format": schema({"type": "array", "uniqueItems": True}, strict=False)},
        {"tool_choice": "required", "tools": [tool(), tool("leap", parameters=SCHEMA)]},
        {"tool_choice": "required", "tools": [tool('odd "name"\n')]},
        {"tool_choice": "required", "tools": [tool(parameters={"properties": {"a": {"type": "string"}}})]},
        {
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "tools": [tool(parameters={"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": SCHEMA}})],
        },
    ],
)
def test_what_can_be_imposed_is_taken(fields: dict[str, Any]) -> None:
    """Schemas with references of their own, names with any letters; not strict, unknown keywords are let be."""
    refuse_ungrammatical(ask(**fields))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": schema({"type": "array", "uniqueItems": True})}, "response_format"),
        ({"response_format": schema({"type": "string", "pattern": "("})}, "response_format"),
        ({"response_format": schema({"$ref": "http://127.0.0.1/schema.json"})}, "response_format"),
        ({"response_format": schema({"type": "wish"})}, "response_format"),
        ({"tool_choice": "required", "tools": [tool(parameters={"type": "wish"})]}, "tools"),
        ({"tool_choice": "required", "tools": [tool(parameters=["a"])]}, "tools"),
        ({"tool_choice": "required", "tools": [{"type": "function"}]}, "tools"),
        (
            {"tool_choice": "required", "tools": [tool(parameters={"const": "a" * MAX_SCHEMA_BYTES})]},
            "tools",
        ),
    ],
)
def test_what_cannot_be_imposed_is_a_bad_request(fields: dict[str, Any], param: str) -> None:
    """It says why; nothing is fetched for it."""
    with pytest.raises(ClientError) as caught:
        refuse_ungrammatical(ask(**fields))
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert caught.value.message.startswith(f"{param}: ")


def test_the_clients_options_for_the_library_are_not_heard() -> None:
    """Blanks are bounded whatever a schema says."""
    open_ended = SCHEMA | {"x-guidance": {"whitespace_pattern": ".*"}}
    said = json.loads(grammar_of(ask(response_format=schema(open_ended))) or "")
    assert "{1,32}" in said["grammars"][0]["json_schema"]["x-guidance"]["whitespace_pattern"]


@pytest.mark.parametrize(
    ("fields", "several"),
    [
        ({"tool_choice": "required"}, True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, False),
        ({"tool_choice": {"type": "function", "function": {"name": "look"}}}, False),
    ],
)
def test_several_calls_are_made_where_they_are_welcome(fields: dict[str, Any], several: bool) -> None:
    """Of a named function there is one."""
    said = grammar_of(ask(tools=[tool()], **fields), CallMarks('"<a>"', "<[5]>")) or ""
    assert ("call)*" in json.loads(said)["grammars"][0]["lark_grammar"]) is several
