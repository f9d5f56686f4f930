"""A response's input: what is taken, what is refused, the messages that it makes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from api.response_items import (
    ITEM_ID,
    Item,
    messages_of,
    read_items,
    with_ids,
    with_instructions,
    without_instructions,
)
from scheduler.errors import ClientError

JOB = "job_01jd3x0v5f8k2m4n6p8r0s2t4v"
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "7"}


def message(role: str, text: str) -> dict[str, Any]:
    """A message as clients write it."""
    return {"role": role, "content": text}


def made(*items: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of items as they are sent."""
    return messages_of(read_items(list(items)))


def test_a_text_is_a_users_message() -> None:
    """The shortest input."""
    assert messages_of(read_items("hello")) == [{"role": "user", "content": "hello"}]


def test_parts_of_text_are_joined() -> None:
    """Also those of an earlier output, with what stands beside the text; a refusal was said too."""
    parts = [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]
    said = [
        {"type": "output_text", "text": "c", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "d"},
    ]
    answer = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "phase": None,
        "content": said,
    }
    assert made({"role": "user", "content": parts}, answer) == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "cd"},
    ]


def test_an_assistants_turn_is_one_message() -> None:
    """Reasoning, text and calls, as a chat template wants them; the results follow."""
    thought = {
        "type": "reasoning",
        "id": "r",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    second = CALL | {"call_id": "c2"}
    assert made(message("user", "q"), thought, message("assistant", "wait"), CALL, second, OUTPUT) == [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "wait",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]


def test_a_summary_stands_for_reasoning_that_is_not_there() -> None:
    """And reasoning that nothing follows, or that was encrypted elsewhere, is nobody's."""
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}]}
    sealed = {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "x"}
    assert made(summary, sealed, message("assistant", "a"), summary) == [
        {"role": "assistant", "content": "a", "reasoning_content": "short"}
    ]


def test_a_functions_result_may_be_parts() -> None:
    """As text."""
    parts = [{"type": "input_text", "text": "1"}, {"type": "input_text", "text": "2"}]
    assert made(CALL, OUTPUT | {"output": parts})[1]["content"] == "12"


def test_instructions_and_leading_system_messages_are_one() -> None:
    """Most templates take one, at the start; what a later request goes on from has the rest again."""
    rest = [message("system", "be kind"), message("developer", "and short"), message("user", "q")]
    told = with_instructions(rest, "you are a poet")
    assert told == [message("system", "you are a poet\n\nbe kind\n\nand short"), message("user", "q")]
    assert without_instructions(told, "you are a poet") == [
        message("system", "be kind\n\nand short"),
        message("user", "q"),
    ]


@pytest.mark.parametrize("instructions", [None, "", "be brief"])
def test_instructions_are_not_carried_over(instructions: str | None) -> None:
    """Taken off again, nothing of them is left."""
    messages = [message("user", "q"), message("assistant", "a")]
    assert without_instructions(with_instructions(messages, instructions), instructions) == messages


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "computer_call"}, "input.0.type"),
        ({"type": ["message"]}, "input.0.type"),
        ({}, "input.0.id"),
        (message("tool", "x"), "input.0.role"),
        ({"role": "user"}, "input.0.content"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "input.0.content.0"),
        ({"role": "user", "content": [{"type": "input_file"}]}, "input.0.content.0"),
        ({"role": "user", "content": ["x"]}, "input.0.content.0"),
        ({"role": "user", "content": [{"type": "input_text", "text": 1}]}, "input.0.content.0.text"),
        (CALL | {"arguments": {}}, "input.0.arguments"),
        (OUTPUT | {"output": None}, "input.0.output"),
        (OUTPUT | {"call_id": None}, "input.0.call_id"),
        ({"type": "reasoning", "content": "x"}, "input.0.content"),
        ({"type": "item_reference", "id": ""}, "input.0.id"),
        (message("user", "x") | {"id": 7}, "input.0.id"),
    ],
)
def test_what_is_not_taken_is_named(item: dict[str, Any], param: str) -> None:
    """By its place."""
    with pytest.raises(ClientError) as refused:
        read_items([item])
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)
    assert param in refused.value.message


def test_every_listed_item_has_an_id_of_its_own() -> None:
    """A client's own id is kept, but not twice, since pages go on behind an id."""
    items = read_items([message("user", "a"), message("user", "b") | {"id": "mine"}, CALL | {"id": "mine"}])
    first, second, third = with_ids(items, JOB)
    assert (first["id"], second["id"], third["id"]) == (
        "msg_01jd3x0v5f8k2m4n6p8r0s2t4v_in0",
        "mine",
        "fc_01jd3x0v5f8k2m4n6p8r0s2t4v_in2",
    )
    assert ITEM_ID.fullmatch(third["id"])
    assert third == {**CALL, "id": third["id"], "status": "completed"}


def test_many_pieces_of_a_turn_take_time_as_they_are_many() -> None:
    """Joined one by one, ten times as many take a hundred times as long; fifty thousand took four seconds."""
    few, many = (read_items([message("assistant", "a" * 100), CALL] * pairs) for pairs in (2_500, 25_000))

    def seconds(items: list[Item]) -> float:
        began = time.process_time()
        (said,) = messages_of(items)
        took = time.process_time() - began
        assert len(said["content"]) == 100 * len(said["tool_calls"]) == 50 * len(items)
        return took

    assert min(seconds(many) for _ in range(3)) < 40 * min(seconds(few) for _ in range(5))
