"""Jobs and logs of responses, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from api.response_events import ResponseEvents
from api.response_note import ResponseNote
from scheduler.events import Kind, LoggedEvent
from scheduler.job import State
from scheduler.outcome import Outcome
from scheduler.record import JobRecord, Meta

JOB: Final = "job_01jd3x0v5f8k2m4n6p8r0s2t4v"
USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def record(outcome: Outcome | None = None, **request: Any) -> JobRecord:
    """A response's job: queued, or ended so."""
    rec = JobRecord(JOB, State.QUEUED, Meta(model="m"), 100.5, 100.5, {"request": request})
    return rec if outcome is None else rec.ended(outcome, 103.5)


def completed(text: str = "", **more: Any) -> Outcome:
    """An outcome with a result."""
    return Outcome(State.COMPLETED, {"text": text, "finish_reason": "stop", "usage": USAGE, **more})


def logged(*events: tuple[Kind, dict[str, Any]] | Kind) -> list[LoggedEvent]:
    """A log, numbered."""
    pairs = [(event, {}) if isinstance(event, Kind) else event for event in events]
    return [LoggedEvent(number, kind, data) for number, (kind, data) in enumerate(pairs, 1)]


def streamed(
    log: Sequence[LoggedEvent], outcome: Outcome | None = None, note: ResponseNote | None = None
) -> list[dict[str, Any]]:
    """The events that a log makes, read from its beginning."""
    events = ResponseEvents(record(), note or ResponseNote(), lambda: record(outcome))
    return [event for each in log for event in events.take(each)]
