"""Schemas that are made to cost much: refused in a moment, wherever they are looked at."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from scheduler import grammar_trial
from scheduler.errors import ClientError
from scheduler.grammar_trial import refuse_ungrammatical
from scheduler.request import read_request

TEXT = {"type": "string"}
HOSTILE: dict[str, Any] = {
    "a large prime": {"type": "integer", "multipleOf": 999_983},
    "two primes that are multiplied": {"allOf": [{"multipleOf": 99_991}, {"multipleOf": 99_989}]},
    "three hundred patterns of names": {
        "type": "object",
        "patternProperties": {f"^p{at:04d}_": TEXT for at in range(300)},
    },
    "patterns that are intersected": {
        "allOf": [
            {"type": "string", "pattern": f"[^{chr(0x4E00 + at)}]{{1,{1000 + at}}}"} for at in range(64)
        ]
    },
}
TOO_MUCH_TO_BEGIN_WITH = {"type": "object", "properties": {f"p{at}": TEXT for at in range(3000)}}


def refusal(schema: Any, *, strict: bool = True) -> ClientError:
    """Ask for JSON of a schema that is refused."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": strict}}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": form}
    with pytest.raises(ClientError) as caught:
        refuse_ungrammatical(read_request(body))
    return caught.value


def seconds_taken(who: int) -> float:
    """CPU seconds of this process, or of its children."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
def test_a_schema_that_would_hold_a_thread_is_refused(schema: Any) -> None:
    """As a bad request, and after a second of another process; a second time at once."""
    mine, others = (seconds_taken(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    error = refusal(schema)
    assert (error.code, error.param) == ("invalid_request", "response_format")
    assert "too complex" in error.message
    assert seconds_taken(resource.RUSAGE_SELF) - mine < 1
    assert 0.5 < seconds_taken(resource.RUSAGE_CHILDREN) - others < 3
    others = seconds_taken(resource.RUSAGE_CHILDREN)
    assert refusal(schema).message == error.message
    assert seconds_taken(resource.RUSAGE_CHILDREN) == others


@pytest.mark.parametrize("schema", [TOO_MUCH_TO_BEGIN_WITH, {"$ref": "#"}], ids=["too many fields", "itself"])
def test_what_no_answer_could_begin_with_is_refused(schema: Any) -> None:
    """It can be compiled, and no token of it drawn: the client is told before a job waits for that."""
    assert refusal(schema).param == "response_format"
    assert "non-verbose" not in refusal(schema).message


def test_who_finds_too_many_at_it_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unavailable for a moment, and no word against the schema."""
    monkeypatch.setattr(grammar_trial, "_PATIENCE_SECONDS", 0.01)
    schema = {"type": "string", "pattern": "^only here$"}
    held = [grammar_trial._turns.acquire() for _ in range(grammar_trial._AT_ONCE)]
    try:
        error = refusal(schema)
    finally:
        for _ in held:
            grammar_trial._turns.release()
    assert error.code == "queue_full" and error.retry_after
    monkeypatch.undo()
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    refuse_ungrammatical(read_request({"model": "m", "prompt": "hi", "response_format": form}))


def test_few_verdicts_are_kept() -> None:
    """The oldest goes."""
    grammar_trial._known.clear()
    for at in range(3):
        grammar_trial._known[f"old {at}"] = ""
    for at in range(grammar_trial._KEPT):
        grammar_trial._known[f"{at}"] = ""
    schema = {"type": "string", "pattern": "("}
    assert refusal(schema).param == "response_format"
    assert len(grammar_trial._known) == grammar_trial._KEPT
    assert "old 0" not in grammar_trial._known
    grammar_trial._known.clear()
