"""Reading an answer that is a stream of events."""

from __future__ import annotations

from werkzeug.test import TestResponse

from tidegate.sse import EventReader, ServerSentEvent


def read(answer: TestResponse) -> list[ServerSentEvent]:
    """Every event of a stream, which must have the headers of one."""
    assert answer.status_code == 200, answer.data
    assert answer.content_type.startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    return list(EventReader().feed(answer.data))


def names(events: list[ServerSentEvent]) -> list[str]:
    """What happened, in order."""
    return [event.name for event in events]


def text(events: list[ServerSentEvent]) -> str:
    """The text that the deltas make."""
    return "".join(event.json()["text"] for event in events if event.name == "delta")
