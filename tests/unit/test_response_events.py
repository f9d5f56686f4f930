"""The events of a response's stream: their order, their numbers, how they end."""

from __future__ import annotations

from typing import Any

import pytest

from api.response_answer import response
from api.response_note import ResponseNote
from scheduler.errors import TABLE, ClientError
from scheduler.events import Kind
from scheduler.job import State
from scheduler.outcome import Outcome
from tests.response_logs import USAGE, completed, logged, record, streamed

TEXT = (Kind.DELTA, {"text": "a", "tokens": [1]})


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The events' types, without what all begin with."""
    return [event["type"].removeprefix("response.") for event in events]


def test_a_stream_has_openais_order() -> None:
    """Numbered from 0; the response in each of its states, and whole at the end."""
    log = logged(Kind.QUEUED, Kind.STARTED, TEXT, Kind.COMPLETED)
    events = streamed(log, completed("a"))
    assert kinds(events) == [
        "created",
        "queued",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    states = [event["response"]["status"] for event in events if "response" in event]
    assert states == ["queued", "queued", "in_progress", "completed"]
    last = events[-1]["response"]
    assert (last["id"], last["created_at"], last["completed_at"]) == (
        "resp_01jd3x0v5f8k2m4n6p8r0s2t4v",
        100,
        103,
    )
    assert last["output"] == [events[-2]["item"]]
    assert last["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }


def test_a_job_that_is_put_back_goes_on_as_if_nothing_was() -> None:
    """Neither a gap in the numbers nor a word of it."""
    log = logged(Kind.QUEUED, Kind.STARTED, TEXT, Kind.REQUEUED, Kind.STARTED, TEXT, Kind.COMPLETED)
    plain = logged(Kind.QUEUED, Kind.STARTED, TEXT, TEXT, Kind.COMPLETED)
    assert streamed(log, completed("aa")) == streamed(plain, completed("aa"))


def test_a_log_that_lacks_its_beginning_is_still_a_stream() -> None:
    """`response.created` comes first, whatever was lost."""
    assert kinds(streamed(logged(TEXT)))[:3] == ["created", "queued", "in_progress"]
    cancelled = Outcome(State.CANCELLED)
    assert kinds(streamed(logged(Kind.CANCELLED), cancelled)) == ["created", "queued", "cancelled"]


def test_a_response_cut_by_its_bound_is_incomplete() -> None:
    """With the reason, and the usage."""
    cut = Outcome(State.INCOMPLETE, {"text": "a", "finish_reason": "length", "usage": USAGE})
    *_, item, last = streamed(logged(Kind.QUEUED, Kind.STARTED, TEXT, Kind.INCOMPLETE), cut)
    said = last["response"]
    assert (last["type"], said["status"], item["item"]["status"]) == (
        "response.incomplete",
        "incomplete",
        "incomplete",
    )
    assert said["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (said["completed_at"], said["usage"]["total_tokens"]) == (None, 10)


def test_a_response_that_fails_keeps_what_it_said() -> None:
    """As an incomplete item; the error has OpenAI's code, and ours beside it with when to come back."""
    error = ClientError("insufficient_memory", "insufficient memory: 3 GiB", retry_after=9, limit_bytes=5)
    failed = Outcome(State.FAILED, error=error.body())
    *_, item, last = streamed(logged(Kind.QUEUED, Kind.STARTED, TEXT, Kind.FAILED), failed)
    said = last["response"]
    assert (last["type"], said["status"]) == ("response.failed", "failed")
    assert said["output"] == [item["item"]]
    assert item["item"]["status"] == "incomplete"
    assert said["error"]["code"] == "server_error"
    assert (said["error"]["cause"], said["error"]["retry_after"]) == ("insufficient_memory", 9)
    assert said["error"]["limit_bytes"] == 5
    assert said["usage"] is None


@pytest.mark.parametrize("code", sorted(TABLE))
def test_every_failure_has_one_of_openais_codes(code: str) -> None:
    """The client knows a closed list."""
    failed = Outcome(State.FAILED, error=ClientError(code, "no").body())
    said = response(record(failed), ResponseNote())
    assert said["error"]["cause"] == code
    assert said["error"]["code"] in {"server_error", "rate_limit_exceeded", "invalid_prompt"}


def test_a_cancelled_response_is_no_error() -> None:
    """Its status says it."""
    last = streamed(logged(Kind.QUEUED, Kind.STARTED, TEXT, Kind.CANCELLED), Outcome(State.CANCELLED))[-1]
    assert (last["type"], last["response"]["status"], last["response"]["error"]) == (
        "response.cancelled",
        "cancelled",
        None,
    )
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_a_response_that_ended_without_a_result_failed() -> None:
    """RQ's own tools end jobs so."""
    last = streamed(logged(Kind.COMPLETED), Outcome(State.COMPLETED))[-1]
    assert (last["type"], last["response"]["error"]["cause"]) == ("response.failed", "internal_error")


def test_tokens_that_reasoned_are_counted_by_whoever_knows() -> None:
    """The result's own count is better than what the log lets one guess, and neither is more than there were."""
    log = logged(Kind.STARTED, (Kind.DELTA, {"reasoning": "hm", "tokens": [1, 2]}), Kind.COMPLETED)
    guessed = streamed(log, completed(reasoning="hm"))[-1]["response"]["usage"]
    usage = USAGE | {"completion_tokens_details": {"reasoning_tokens": 1}}
    counted = streamed(log, completed(reasoning="hm", usage=usage))[-1]["response"]["usage"]
    details = [said["output_tokens_details"]["reasoning_tokens"] for said in (guessed, counted)]
    assert details == [2, 1]


def test_a_response_shows_how_it_was_asked_for() -> None:
    """What its job's request has, and what was noted beside it."""
    note = ResponseNote(instructions="be kind", background=True, tool_choice="none", user="u")
    said = response(record(max_tokens=9, temperature=0.5, metadata={"a": "b"}), note)
    assert (said["status"], said["output"], said["usage"]) == ("queued", [], None)
    assert (said["max_output_tokens"], said["temperature"], said["top_p"]) == (9, 0.5, 1.0)
    assert (said["metadata"], said["instructions"], said["user"]) == ({"a": "b"}, "be kind", "u")
    assert (said["background"], said["store"], said["tool_choice"]) == (True, True, "none")
