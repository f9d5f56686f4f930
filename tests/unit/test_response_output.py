"""A response's output as a fold over its log."""

from __future__ import annotations

from typing import Any

from api.response_output import Event, Output

JOB = "job_01jd3x0v5f8k2m4n6p8r0s2t4v"
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def kinds(events: list[Event]) -> list[str]:
    """The events' types, without what all begin with."""
    return [str(event["type"]).removeprefix("response.") for event in events]


def texts(output: Output) -> list[tuple[str, str]]:
    """The items: their kinds and texts."""
    return [(item["type"], item["content"][0]["text"]) for item in output.items]


def test_a_text_is_a_message_with_one_part() -> None:
    """Every event about it names it and its place."""
    output = Output(JOB)
    events = (
        output.delta({"text": "a "}) + output.delta({"text": "b"}) + output.end({"text": "a b"}, "completed")
    )
    assert kinds(events) == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    part = {"type": "output_text", "text": "a b", "annotations": [], "logprobs": []}
    name = "msg_01jd3x0v5f8k2m4n6p8r0s2t4v_out0"
    assert output.items == [
        {"id": name, "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    ]
    place = {"item_id": name, "output_index": 0, "content_index": 0}
    assert events[1] == {
        "type": "response.content_part.added",
        **place,
        "part": part | {"text": ""},
    }
    assert events[3] == {"type": "response.output_text.delta", **place, "delta": "b", "logprobs": []}
    assert events[4] == {"type": "response.output_text.done", **place, "text": "a b", "logprobs": []}
    assert (events[0]["item"]["content"], events[-1]["item"]) == ([], output.items[0])


def test_reasoning_comes_before_the_text_and_is_closed_by_it() -> None:
    """One item each, though a delta brings both; about how many tokens reasoned is counted."""
    output = Output(JOB)
    events = output.delta({"reasoning": "hmm", "tokens": [1, 2]})
    events += output.delta({"reasoning": "ab", "text": "cd", "tokens": [3, 4]})
    events += output.end({"text": "cd", "reasoning": "hmmab"}, "completed")
    assert kinds(events) == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert texts(output) == [("reasoning", "hmmab"), ("message", "cd")]
    assert (output.items[0]["summary"], output.items[0]["status"]) == ([], "completed")
    assert output.reasoning_tokens == 3


def test_a_model_that_reasons_again_makes_another_item() -> None:
    """What was closed is not opened again."""
    output = Output(JOB)
    for data in ({"reasoning": "a"}, {"text": "b"}, {"reasoning": "c"}, {"text": "d"}):
        output.delta(data)
    output.end({"text": "bd", "reasoning": "ac"}, "completed")
    assert texts(output) == [("reasoning", "a"), ("message", "b"), ("reasoning", "c"), ("message", "d")]


def test_white_space_waits_for_its_text() -> None:
    """It is said with it, so that no text is lost."""
    output = Output(JOB)
    assert output.delta({"text": "\n"}) == []
    output.delta({"reasoning": "hm"})
    assert output.delta({"text": "\n"}) == []
    output.delta({"text": "a"})
    output.end({"text": "\n\na", "reasoning": "hm"}, "completed")
    assert texts(output) == [("reasoning", "hm"), ("message", "\n\na")]


def test_white_space_before_a_call_is_no_message() -> None:
    """But where it is all that was said it is one."""
    calling, silent = Output(JOB), Output(JOB)
    for output in (calling, silent):
        output.delta({"text": "\n"})
    calling.end({"text": "\n", "tool_calls": [CALL]}, "completed")
    silent.end({"text": "\n"}, "completed")
    assert [item["type"] for item in calling.items] == ["function_call"]
    assert texts(silent) == [("message", "\n")]


def test_calls_come_whole_behind_the_text() -> None:
    """Each with its arguments as one delta; the text before them is complete."""
    output = Output(JOB)
    output.delta({"text": "let me see"})
    events = output.end({"text": "let me see", "tool_calls": [CALL]}, "incomplete")
    name = "fc_01jd3x0v5f8k2m4n6p8r0s2t4v_out1"
    call = {
        "id": name,
        "type": "function_call",
        "call_id": "call_1",
        "name": "f",
        "arguments": '{"a": 1}',
        "status": "completed",
    }
    place = {"item_id": name, "output_index": 1}
    said = "response.function_call_arguments"
    assert events[3:] == [
        {
            "type": "response.output_item.added",
            "output_index": 1,
            "item": call | {"arguments": "", "status": "in_progress"},
        },
        {"type": f"{said}.delta", **place, "delta": '{"a": 1}'},
        {"type": f"{said}.done", **place, "name": "f", "arguments": '{"a": 1}'},
        {"type": "response.output_item.done", "output_index": 1, "item": call},
    ]
    assert [item["status"] for item in output.items] == ["completed", "completed"]


def test_no_more_calls_are_taken_than_wanted() -> None:
    """`parallel_tool_calls: false` wants one."""
    output = Output(JOB, calls_most=1)
    output.end({"text": "", "tool_calls": [CALL, CALL]}, "completed")
    assert len(output.items) == 1


def test_what_the_log_lacks_is_said_at_the_end() -> None:
    """All of it, where there was no log."""
    half, none = Output(JOB), Output(JOB)
    half.delta({"text": "a "})
    result: dict[str, Any] = {"text": "a b", "reasoning": None}
    assert kinds(half.end(result, "incomplete"))[0] == "output_text.delta"
    none.end(result | {"reasoning": "hm"}, "completed")
    assert texts(half) == [("message", "a b")]
    assert texts(none) == [("reasoning", "hm"), ("message", "a b")]
    assert half.items[0]["status"] == "incomplete"


def test_logprobs_go_with_the_text_where_asked_for() -> None:
    """Those of tokens whose text came later, too."""
    entries: list[Any] = [{"token": name, "logprob": -1.0, "bytes": [], "top_logprobs": []} for name in "abc"]
    asked, silent = Output(JOB, logprobs=True), Output(JOB)
    for output in (asked, silent):
        output.delta({"reasoning": "r", "logprobs": entries[:1]})
        output.delta({"logprobs": entries[1:2]})
        output.delta({"text": "bc", "logprobs": entries[2:]})
        output.end({"text": "bc", "reasoning": "r"}, "completed")
    assert asked.items[1]["content"][0]["logprobs"] == entries[1:]
    assert silent.items[1]["content"][0]["logprobs"] == []


def test_what_is_not_of_its_type_counts_as_nothing() -> None:
    """A log is read from a server to which others may write."""
    output = Output(JOB, logprobs=True)
    output.delta({"text": 7, "reasoning": ["x"], "tokens": "abc", "logprobs": 1})
    output.end({"text": None, "tool_calls": ["x", {"function": 1}, {"function": {"name": 1}}]}, "completed")
    assert output.items == []
