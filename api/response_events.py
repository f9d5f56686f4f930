"""The events of a response's stream, numbered: a state machine over its job's log.

::

    log                         stream, after the first event of the log
    ---                         ------
    (the first event)           response.created, response.queued
    started, the first          response.in_progress
    delta                       what it adds to the output; response.in_progress before it, if it was not said
    requeued, started again     nothing: the response stays in progress, and its output goes on
    the end                     the rest of the output, then response.completed, .incomplete, .failed or .cancelled

An event's ``sequence_number`` counts from 0 what was said before it. It follows from the log alone, which only
grows: so the stream of one process can be resumed at another, and a replay is the stream that was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.outcomes import failure, result_of
from api.response_answer import ended_response, item_status, new_output, response_at
from api.response_note import ResponseNote
from api.response_output import Event
from scheduler.events import Kind, LoggedEvent
from scheduler.job import State
from scheduler.record import JobRecord


class ResponseEvents:
    """What one response's log says, as OpenAI's events.

    Args:
        rec: its job, read at any time.
        note: what was noted of it.
        ended: reads the job once its end is in the log.
    """

    def __init__(self, rec: JobRecord, note: ResponseNote, ended: Callable[[], JobRecord]) -> None:
        self.count = 0
        """How many events were made, and so the number of the next."""
        self._rec = rec
        self._note = note
        self._ended = ended
        self._output = new_output(rec, note)
        self._stage: State | None = None

    def take(self, logged: LoggedEvent) -> list[Event]:
        """The events that the log's next event makes.

        Raises:
            ClientError: ``not_found``; the job was deleted before its end was read.
        """
        made: list[Event] = []
        if self._stage is None:
            self._stage = State.QUEUED
            made += [self._lifecycle("created"), self._lifecycle("queued")]
        if logged.kind in {Kind.STARTED, Kind.DELTA} and self._stage is State.QUEUED:
            self._stage = State.IN_PROGRESS
            made.append(self._lifecycle("in_progress"))
        if logged.kind is Kind.DELTA:
            made += self._output.delta(logged.data)
        elif logged.ends:
            made += self._end()
        return [self._numbered(event) for event in made]

    def _lifecycle(self, kind: str) -> Event:
        assert self._stage is not None
        return {"type": f"response.{kind}", "response": response_at(self._rec, self._note, self._stage)}

    def _end(self) -> list[Event]:
        rec = self._ended()
        result = None if failure(rec) else result_of(rec)
        events = self._output.end(result, item_status(rec.state))
        last = ended_response(rec, self._note, self._output)
        return [*events, {"type": f"response.{last['status']}", "response": last}]

    def _numbered(self, event: Event) -> dict[str, Any]:
        number, self.count = self.count, self.count + 1
        return {"type": event["type"], "sequence_number": number, **event}
