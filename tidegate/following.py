"""A job that is followed to its end: its answer on standard output, and meanwhile, on a terminal, what it waits for."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import click

from scheduler.errors import ClientError, TidegateError
from scheduler.job import TERMINAL, State
from tidegate.attention import attended
from tidegate.client import Client, Job
from tidegate.failures import JobCancelled
from tidegate.job_summary import summary
from tidegate.sse import ServerSentEvent
from tidegate.terminal import Terminal
from tidegate.text import fields_of, list_of, on_one_line
from tidegate.waiting_words import PREPARING, why_not_yet

LOOK_SECONDS: Final = 0.25
_ASK_SECONDS: Final = 1.0
_SHARE: Final = 10
"""The API is asked after so many times as long as its last answers took."""


class Form(enum.Enum):
    """How a job is shown on standard output."""

    TEXT = enum.auto()
    """Its text as it comes."""
    WHOLE = enum.auto()
    """Its text at once, when it has ended."""
    EVENTS = enum.auto()
    """Every event as a line of JSON: ``event``, ``id``, ``data``; the last one's data is the job."""
    JOB = enum.auto()
    """The job as JSON, when it has ended."""

    @property
    def as_json(self) -> bool:
        """Whether it has the job's error in it."""
        return self in {Form.EVENTS, Form.JOB}


class Following:
    """One job.

    Args:
        client: the API.
        job: as it is now; its id at least.
        terminal: where it is shown.
        form: how.
        submitted_at: of this process's monotonic clock, where it was submitted here and now.
        check: called now and then; what it raises ends this.
        slow_seconds: without an answer for so long, what is loaded or measured is noted where there is no terminal to
            show it on; None: it is not.
    """

    def __init__(
        self,
        client: Client,
        job: Job,
        terminal: Terminal,
        form: Form = Form.TEXT,
        *,
        submitted_at: float | None = None,
        check: Callable[[], None] = lambda: None,
        slow_seconds: float | None = None,
    ) -> None:
        self._client, self._job, self._terminal, self._form = client, job, terminal, form
        self._submitted_at, self._check = submitted_at, check
        self._first_token_seconds: float | None = None
        self._began_at, self._slow_seconds = time.monotonic(), slow_seconds
        self._answered, self._noted = False, set[str]()
        self._due_at = 0.0
        self._say: Callable[[str], None] = lambda _: None
        self.ended: Job = {}
        """As it ended; empty before."""

    def to_its_end(self, on_loss: Callable[[], None] = lambda: None) -> Job:
        """Show it; the job as it ended.

        Args:
            on_loss: called where the connection breaks, once for all the tries that follow.

        Raises:
            ClientError: it failed; its error.
            JobCancelled: it was.
            ApiUnreachable: it could not be followed to its end.
        """
        events = self._client.stream(self._job["id"], on_loss=on_loss)
        with self._terminal.waiting() as self._say, self._terminal.answering():
            for event in attended(events, self._look, LOOK_SECONDS):
                self._take(event)
                if event.name in TERMINAL:
                    self.ended = event.json()
            if self._form is Form.WHOLE:
                self._terminal.say(str(fields_of(self.ended, "result").get("text") or ""))
        if self._form is Form.JOB:
            click.echo(json.dumps(self.ended))
        if self.ended.get("status") == State.FAILED:
            raise ClientError.from_body(fields_of(self.ended, "error"))
        if self.ended.get("status") == State.CANCELLED:
            raise JobCancelled(f"{self.ended['id']} was cancelled")
        if not self._form.as_json:
            self._terminal.note(summary(self.ended, self._first_token_seconds))
        return self.ended

    def _take(self, event: ServerSentEvent) -> None:
        self._answered = self._answered or event.name == "delta"
        if event.name == "delta":
            if self._first_token_seconds is None and self._submitted_at is not None:
                self._first_token_seconds = time.monotonic() - self._submitted_at
            if self._form is Form.TEXT and (text := str(event.json().get("text", ""))):
                if self._terminal.out.is_terminal:
                    self._say("")
                self._terminal.say(text)
        if self._form is Form.EVENTS:
            click.echo(json.dumps({"event": event.name, "id": event.id, "data": event.json()}))

    def _look(self) -> None:
        self._check()
        began = time.monotonic()
        shows = self._terminal.tells_of_waiting
        if began < self._due_at or not (shows or self._is_slow(began)):
            return
        workers: list[Any] = []
        with suppress(TidegateError):  # the stream says what is wrong
            self._job = self._client.look(f"/v1/jobs/{self._job['id']}") or self._job
        with suppress(TidegateError):
            workers = list_of(self._client.look("/v1/capacity"), "workers")
        words = why_not_yet(self._job, map(fields_of, workers), on_one_line(self._job.get("model")))
        if shows:
            self._say(words)
        elif words.startswith(PREPARING) and words not in self._noted:
            self._noted.add(words)
            self._terminal.note(words)
        now = time.monotonic()
        self._due_at = now + max(_ASK_SECONDS, _SHARE * (now - began))

    def _is_slow(self, now: float) -> bool:
        """Whether it is to be noted that there is no answer yet."""
        waits = self._slow_seconds is not None and not self._answered
        return waits and now - self._began_at >= (self._slow_seconds or 0.0)
