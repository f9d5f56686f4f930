"""What the command shows: answers on standard output, everything about them on standard error."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

from scheduler.errors import ClientError, TidegateError
from scheduler.job import TERMINAL, State
from tidegate.sse import ServerSentEvent


class Terminal:
    """Both consoles; the rest of the command prints through here."""

    def __init__(self) -> None:
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._within_line = False

    def done(self, what: str, detail: str) -> None:
        """One step that succeeded."""
        self.err.print(f"[green]✓[/] {what:<13} [dim]{escape(detail)}[/]")

    def note(self, what: str) -> None:
        """Say something about an answer, on a line of its own though the answer is under way."""
        begin = "\n" if self._within_line and self.out.is_terminal else ""
        self.err.print(f"{begin}[dim]{escape(what)}[/]")

    def answer(self, events: Iterable[ServerSentEvent]) -> dict[str, Any]:
        """Print a job's text as it comes, then return the job as it ended.

        Raises:
            ClientError: the job failed; its error.
            TidegateError: it was cancelled.
        """
        job = self._print(events)
        if job.get("status") == State.FAILED:
            raise ClientError.from_body(job["error"])
        if job.get("status") == State.CANCELLED:
            raise TidegateError(f"{job['id']} was cancelled")
        return job

    def _print(self, events: Iterable[ServerSentEvent]) -> dict[str, Any]:
        job: dict[str, Any] = {}
        try:
            for event in events:
                if event.name == "delta":
                    text = str(event.json().get("text", ""))
                    self.out.print(printable(text), end="", markup=False)
                    self._within_line = self._within_line or bool(text)
                elif event.name in TERMINAL:
                    job = event.json()
        finally:
            if self._within_line:
                self.out.print()
            self._within_line = False
        return job

    def jobs(self, jobs: list[dict[str, Any]]) -> None:
        """One line a job, in columns; nothing is shortened, so that an id can be copied."""
        rows = [("job", "status", "model", "priority", "created", "tokens")]
        for job in jobs:
            usage = (job.get("result") or {}).get("usage") or {}
            created = datetime.fromtimestamp(job["created_at"], UTC).astimezone()
            tokens = str(usage.get("completion_tokens", "-"))
            when = f"{created:%Y-%m-%d %H:%M:%S}"
            rows.append((job["id"], job["status"], printable(job["model"]), job["priority"], when, tokens))
        self._columns(rows)

    def models(self, models: list[dict[str, Any]]) -> None:
        """One line a model: whether a live worker serves it."""
        rows = [("model", "ready")]
        rows += [(printable(model["id"]), "yes" if model["ready"] else "no") for model in models]
        self._columns(rows)

    def _columns(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.out.print("  ".join(cells).rstrip(), markup=False)


def printable(text: str) -> str:
    """The text without control characters, which a terminal would obey."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def summary(job: dict[str, Any]) -> str:
    """How long an answer took, in tokens and seconds."""
    usage = (job.get("result") or {}).get("usage") or {}
    parts = [str(job.get("status"))]
    if (tokens := usage.get("completion_tokens")) is not None:
        parts.append(f"{tokens} tokens")
    if job.get("started_at") and job.get("completed_at"):
        waited = job["started_at"] - job["created_at"]
        parts.append(f"waited {waited:.1f} s, ran {job['completed_at'] - job['started_at']:.1f} s")
    return ", ".join(parts)
