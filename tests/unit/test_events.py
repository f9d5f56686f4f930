"""The log's wire forms."""

from __future__ import annotations

import json

import pytest

from scheduler.events import (
    STEPS_CHANNEL,
    TERMINAL_KINDS,
    Kind,
    LoggedEvent,
    append_command,
    parse_step,
    publish_command,
)
from scheduler.job import TERMINAL

NEWS = [
    ("job_1", LoggedEvent(1, Kind.QUEUED)),
    ("job_2", LoggedEvent(7, Kind.DELTA, {"text": 'é\u2028"\\\x00\n🌊', "tokens": [1, 2]})),
    ("job_1", LoggedEvent(2**40, Kind.COMPLETED)),
]


def test_a_step_is_read_as_it_was_written() -> None:
    """Jobs, numbers, kinds and data, in order, whatever the text."""
    command, channel, payload = publish_command(NEWS)
    assert (command, channel) == ("PUBLISH", STEPS_CHANNEL)
    assert parse_step(str(payload)) == NEWS
    assert parse_step(str(payload).encode()) == NEWS


def test_an_empty_step_is_a_step() -> None:
    """It wakes a reader and says nothing."""
    assert parse_step(b"[]") == []


def test_only_the_events_of_wanted_jobs_are_read() -> None:
    """What nobody follows is passed over, whatever it is."""
    payload = '[["a",1,"delta",{}],["b",1,"nonsense",7],["a",2,"completed",{}]]'
    assert [(job, event.number) for job, event in parse_step(payload, {"a"})] == [("a", 1), ("a", 2)]
    assert parse_step(payload, ()) == []
    with pytest.raises(ValueError, match="not a step"):
        parse_step(payload, {"b"})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"rubbish",
        b"\xff\xfe",
        b"null",
        b"5",
        b"true",
        b'{"a": 1}',
        b"[5]",
        b'["ab"]',
        b"[[]]",
        b'[["job", 1, "delta"]]',
        b'[["job", "x", "delta", {}]]',
        b'[["job", null, "delta", {}]]',
        b'[["job", 1e999, "delta", {}]]',
        b'[["job", NaN, "delta", {}]]',
        b'[["job", 1, [], {}]]',
        b'[["job", 1, "delta", 5]]',
        b'[["job", 1, "delta", null]]',
        b"[" * 200_000,
    ],
    ids=lambda payload: payload[:24].decode(errors="replace"),
)
def test_rubbish_on_the_channel_is_a_value_error(payload: bytes) -> None:
    """Nothing that anybody publishes ends a reader in another way."""
    with pytest.raises(ValueError, match="not a step"):
        parse_step(payload)


def test_what_a_later_release_says_is_read_as_far_as_it_is_known() -> None:
    """A kind that nobody knows here keeps its number alone: its data may mean anything; what is beside an event is passed over."""
    step = parse_step(
        b'[["job", 1, "teapot", {"tokens": 1}, 5], ["job", 2, "delta", {"text": "a", "hue": 1}, 5]]'
    )
    assert step == [
        ("job", LoggedEvent(1, Kind.OTHER)),
        ("job", LoggedEvent(2, Kind.DELTA, {"text": "a", "hue": 1})),
    ]


def test_an_entrys_id_is_its_number() -> None:
    """So that the server itself refuses a repeat."""
    command = append_command("job_1", LoggedEvent(12, Kind.DELTA, {"text": "é"}))
    assert command[:4] == ("XADD", "tidegate:events:job_1", "12-0", "kind")
    assert json.loads(str(command[-1])) == {"text": "é"}


def test_the_kinds_that_end_a_log_are_the_terminal_states() -> None:
    """One name for both, and no other kind ends."""
    assert {kind.value for kind in TERMINAL_KINDS} == {state.value for state in TERMINAL}
    assert [kind for kind in Kind if LoggedEvent(1, kind).ends] == [
        kind for kind in Kind if kind in TERMINAL_KINDS
    ]
