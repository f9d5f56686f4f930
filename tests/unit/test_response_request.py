"""What of OpenAI's request becomes the job, what its note, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from api.response_note import ResponseNote, read_note
from api.response_request import ResponseRequest, as_asked
from api.response_tools import shown, tool_fields
from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.record import JobRecord, Meta
from scheduler.request import JobRequest

TOOLS: Any = tuple({"type": "function", "name": name, "strict": True} for name in ("f", "g"))
SAID: Any = [{"role": "user", "content": "q"}]


def asked(**fields: Any) -> ResponseRequest:
    """A request."""
    return ResponseRequest.model_validate({"model": "m", "input": "q", **fields})


def offered(choice: Any) -> list[str]:
    """The tools that a model is shown."""
    fields = tool_fields(TOOLS, choice, None)
    return [tool["function"]["name"] for tool in fields.get("tools", ())]


def noted(note: Any, request: Any) -> ResponseNote | None:
    """What is read of a job whose envelope holds these."""
    return read_note(JobRecord("j", State.QUEUED, Meta(), 0, 0, {"request": request, "note": note}))


def test_a_model_is_shown_what_it_may_call() -> None:
    """All, none, or those that are allowed; without what is said to the server alone."""
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    assert (offered(None), offered("auto"), offered("none"), offered(allowed)) == (
        ["f", "g"],
        ["f", "g"],
        [],
        ["g"],
    )
    assert tool_fields(TOOLS[:1], None, None)["tools"] == [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "f"}])
def test_a_model_is_made_to_call_where_jobs_can_ask_for_it(choice: Any) -> None:
    """In the chat's form; else it is refused."""
    if "tool_choice" in JobRequest.model_fields:
        told = tool_fields(TOOLS, choice, None)["tool_choice"]
        assert told in ("required", {"type": "function", "function": {"name": "f"}})
    else:
        with pytest.raises(ClientError) as refused:
            tool_fields(TOOLS, choice, None)
        assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("choice", ["sometimes", {"type": "function"}, {"type": "mcp"}])
def test_other_choices_are_refused(choice: Any) -> None:
    """Whatever jobs can ask for."""
    with pytest.raises(ClientError) as refused:
        tool_fields(TOOLS, choice, None)
    assert refused.value.param == "tool_choice"


def test_allowed_tools_are_a_list_of_tools() -> None:
    """Or refused."""
    for tools in (None, "f", ["f"]):
        with pytest.raises(ClientError) as refused:
            tool_fields(TOOLS, {"type": "allowed_tools", "tools": tools}, None)
        assert refused.value.param == "tool_choice.tools"


def test_a_schema_is_the_jobs_where_jobs_have_one() -> None:
    """In the chat's form; else it is refused."""
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    request = asked(text={"format": form})
    if "response_format" in JobRequest.model_fields:
        told = request.to_job(SAID).model_dump(mode="json", exclude_unset=True)["response_format"]
        inner = {"name": "n", "schema": {"type": "object"}, "strict": True}
        assert (told["type"], {name: told["json_schema"][name] for name in inner}) == ("json_schema", inner)
    else:
        with pytest.raises(ClientError) as refused:
            request.to_job(SAID)
        assert refused.value.param == "text.format"


@pytest.mark.parametrize(
    ("tier", "priority"), [("flex", "batch"), ("priority", "interactive"), ("auto", "standard")]
)
def test_a_service_tier_is_a_class(tier: str, priority: str) -> None:
    """Unless the class itself is named."""
    assert asked(service_tier=tier).to_job(SAID).priority == priority
    assert asked(service_tier=tier, priority="batch").to_job(SAID).priority == "batch"


def test_errors_have_the_clients_names() -> None:
    """And keep what else they say; those of other fields are as they were."""
    error = ClientError("rate_limit_exceeded", "max_tokens: 9", param="max_tokens", retry_after=3, limit=5)
    said = as_asked(error)
    assert (said.message, said.param, said.retry_after, said.numbers) == (
        "max_output_tokens: 9",
        "max_output_tokens",
        3,
        {"limit": 5},
    )
    for ours, theirs in (
        ("messages.3.content", "input"),
        ("response_format", "text.format"),
        ("response_format.json_schema.name", "text.format.name"),
    ):
        inside = as_asked(ClientError("invalid_request", f"{ours}: no", param=ours))
        assert (inside.message, inside.param) == (f"{theirs}: no", theirs)
    other = ClientError("invalid_request", "seed: no", param="seed")
    assert as_asked(other) is other


def test_what_was_noted_is_read_again() -> None:
    """As it was; tools as clients want to see them."""
    request = asked(
        instructions="i",
        tools=TOOLS,
        tool_choice="none",
        background=True,
        user="u",
        parallel_tool_calls=False,
    )
    note = request.note([{"type": "message", "role": "user", "content": []}])
    assert noted(note.to_note(), {"model": "m"}) == note
    assert note.tools[0] == {"description": None, "parameters": None, **TOOLS[0]} == shown(TOOLS[0])
    assert asked().note([]).to_note() == {"response": {}}


@pytest.mark.parametrize(
    ("note", "request_kept"),
    [
        (None, {}),
        ("x", {}),
        ({}, {}),
        ({"response": 1}, {}),
        ({"response": {"store": "perhaps"}}, {}),
        ({"response": {}}, [1]),
    ],
)
def test_what_is_no_note_is_none(note: Any, request_kept: Any) -> None:
    """Others may write to the server."""
    assert noted(note, request_kept) is None
