"""What an engine says is heard where engines say such things, and when."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.fuzz.pipes import _messages
from workers.said import Course, read_said
from workers.wire import Message, WireBroken, decoded

KINDS = {message["kind"]: message for message in _messages()}
EARLY = {"host", "ready"}
RESULT = {"text": "a", "finish_reason": "stop", "usage": {}}
ENDED = {"key": "a/1", "at": 1.0, "result": RESULT}
OF_A_LOAD = {"loading", "loaded", "load_failed"}


def course(kind: str) -> Course:
    """An engine that may say it now."""
    made = Course(ready=kind not in EARLY, loaded={"m"})
    if kind in OF_A_LOAD:
        made.tell({"kind": "load", "model": "m"})
    return made


def hear(message: Message, after: Course | None = None) -> None:
    """Hear it as it comes out of a pipe, however it is written: steps are read in another way than what looks unlike one.

    Raises:
        WireBroken: either way.
    """
    spaced, compact = (json.dumps(message, separators=each).encode() for each in ((", ", ": "), (",", ":")))
    try:
        read = read_said(compact)
    except WireBroken as broken:
        with pytest.raises(WireBroken, match=re.escape(str(broken))):
            read_said(spaced)
        raise
    assert json.loads(json.dumps([read, read_said(spaced)])) == [decoded(compact)] * 2
    (after or course(message["kind"])).hear(read)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_has_its_fields_and_its_time(kind: str) -> None:
    """A sound message is heard; one that lacks any of its fields, or comes too early or late, ends the engine."""
    message = KINDS[kind]
    hear(message)
    with pytest.raises(WireBroken):
        hear(message, Course(ready=kind in EARLY, loaded={"m"}))
    needed = [
        name for name in message if name not in {"kind", "computed", "reused", "extents", "seconds", "phase"}
    ]
    for name in needed if kind != "measured" else ["budget_bytes"]:
        with pytest.raises(WireBroken, match=name):
            hear({each: value for each, value in message.items() if each != name})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("step", {"steps": [{"key": "a/1", "at": 1.0, "tokens": [-1]}]}),
        ("step", {"steps": [{"key": "a/1", "at": 1.0, "tokens": ["1x"]}]}),
        ("step", {"steps": [{"key": 5, "at": 1.0}]}),
        ("step", {"steps": [{"key": "a/1", "at": 1.0, "result": {"text": "a"}}]}),
        ("step", {"steps": [ENDED | {"result": RESULT | {"usage": {"prompt_tokens": "5"}}}]}),
        ("step", {"steps": [ENDED | {"result": RESULT | {"usage": {"prompt": 1 << 64}}}]}),
        ("step", {"steps": [ENDED | {"result": RESULT | {"reasoning": 5}}]}),
        ("step", {"steps": [ENDED | {"logprobs": [{"token": "a", "logprob": -1 << 70}]}]}),
        ("step", {"computed": {"a/1": -5}}),
        ("step", {"extents": {"m": [[1, 2]]}}),
        ("step", {"seconds": float("nan")}),
        ("sized", {"prompt_tokens": 0}),
        ("sized", {"max_tokens": 1 << 40}),
        ("refused", {"error": {"code": "eaten", "message": "a"}}),
        ("refused", {"error": {"code": "invalid_request", "message": "a", "limit_bytes": 1 << 64}}),
        ("loading", {"model": "another"}),
        ("learnt", {"card": KINDS["learnt"]["card"] | {"model": "another"}}),
        ("learnt", {"card": KINDS["learnt"]["card"] | {"decode_bytes": -1}}),
        ("learnt", {"card": []}),
        ("measured", {"budget_bytes": -1}),
        ("removed", {"memory": 5}),
        ("shed", {"budget_bytes": "5"}),
        ("host", {"key": ["a/1"]}),
    ],
)
def test_a_field_out_of_range_ends_the_engine(kind: str, fields: dict[str, Any]) -> None:
    """Counts are no less than nothing, names are those that were given; what will be kept can be read back."""
    with pytest.raises(WireBroken):
        hear(KINDS[kind] | fields)


def test_an_engine_is_ready_once_and_ends_a_load_once() -> None:
    """What comes again is nonsense."""
    for kind in ("ready", "loaded"):
        known = course(kind)
        hear(KINDS[kind], known)
        with pytest.raises(WireBroken):
            hear(KINDS[kind], known)


def test_a_kind_that_there_is_not_ends_the_engine() -> None:
    """Worker and engine are of one version; fields that nobody looks for are let be."""
    with pytest.raises(WireBroken, match="'sung'"):
        hear({"kind": "sung"}, course("step"))
    hear(KINDS["step"] | {"more": [1]})


def test_a_message_has_one_kind() -> None:
    """A step that goes on as something else is read as neither unchecked."""
    with pytest.raises(WireBroken):
        read_said(b'{"kind":"step","steps":[],"memory":{"active_bytes":5,"cache_bytes":1},"kind":"ready"}')
    with pytest.raises(WireBroken):
        read_said(b'{"kind":"step","kind":"loaded","model":"m"}')
