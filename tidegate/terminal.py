"""What the command shows: answers on standard output, everything about them on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

from scheduler.keys import Key
from tidegate import job_rows
from tidegate.columns import Column, cut, lines
from tidegate.text import on_one_line, printable
from tidegate.typed import as_typed


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error.

    What is no terminal gets neither colours nor a cursor's codes, whatever the environment asks for (``FORCE_COLOR``);
    a terminal gets none where it asks for that (``NO_COLOR``, ``TERM=dumb``). Nothing is wrapped.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, force_terminal=stream.isatty())


class Terminal:
    """Both consoles; the rest of the command prints through here."""

    def __init__(self) -> None:
        self.out = console()
        self.err = console(stderr=True)
        self._within_line = False

    def done(self, what: str, detail: str) -> None:
        """One step that succeeded."""
        self.err.print(f"[green]✓[/] {what:<13} [dim]{escape(detail)}[/]")

    def note(self, what: str) -> None:
        """Say something about an answer, on a line of its own though the answer is under way."""
        begin = "\n" if self._shares_line else ""
        self.err.print(f"{begin}[dim]{escape(as_typed(what))}[/]")

    @property
    def has_screen(self) -> bool:
        """Whether standard output can be drawn on again and again."""
        return self.out.is_terminal and not self.out.is_dumb_terminal

    @property
    def tells_of_waiting(self) -> bool:
        """Whether there is somebody to tell what is waited for, and no answer yet in the same place."""
        return self.err.is_terminal and not self.err.is_dumb_terminal and not self._shares_line

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """A line, on a terminal alone, that says what is waited for and is gone afterwards; '' takes it away before."""
        spinner = Spinner("dots")
        shown = Live(
            console=self.err,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=8,
        )  # redirected, answers would go where this line does

        def say(words: str) -> None:
            if words and self.tells_of_waiting:
                line = cut(on_one_line(words), max(1, self.err.width - 3))
                spinner.update(text=Text(line, "dim"))
                shown.update(spinner)
                shown.start()
            elif not words:
                shown.stop()

        try:
            yield say
        finally:
            shown.stop()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The line that an answer stands in ends with this."""
        try:
            yield
        finally:
            if self._within_line:
                click.echo()
            self._within_line = False

    def say(self, text: str) -> None:
        """Print a piece of an answer: to a terminal what it cannot be commanded by, to anything else all of it."""
        stream = sys.stdout
        said = printable(text) if self.out.is_terminal else text
        coding = stream.encoding or "utf-8"
        stream.write(said.encode(coding, "replace").decode(coding))
        stream.flush()
        self._within_line = self._within_line or bool(text)

    @property
    def _shares_line(self) -> bool:
        return self._within_line and self.out.is_terminal

    def jobs(self, jobs: list[dict[str, Any]], preparing: Mapping[str, str] = MappingProxyType({})) -> None:
        """One line a job, in columns; nothing is shortened, so that an id can be copied."""
        self._show(lines(job_rows.listed(jobs, preparing)))

    def models(
        self, models: list[dict[str, Any]], preparing: Mapping[str, str], remarks: Mapping[str, str]
    ) -> None:
        """One line a model: whether a live worker serves it, or is getting ready to, and what is to be remarked of it.

        Args:
            models: as the API lists them.
            preparing: what workers do about models that none has ready, by name.
            remarks: by name.
        """
        rows = [("model", "ready", "remarks" if remarks else "")]
        for model in models:
            told = model.get("state")  # an API of an earlier release does not say
            ready = told if told in {"loading", "measuring"} else "yes" if model["ready"] else "no"
            if ready == "yes":
                ready = preparing.get(model["id"], ready)
            rows.append((printable(model["id"]), ready, printable(remarks.get(model["id"], ""))))
        self._columns(rows)

    def card(self, title: str, figures: Iterable[tuple[str, str]]) -> None:
        """A title, and a line each."""
        names, values = zip(*figures, strict=True)
        card = lines([Column("", names), Column("", [printable(value) for value in values])])[1:]
        self._show(["", title, *(f"  {line}" for line in card)])

    def keys(self, keys: Iterable[Key], now_seconds: float) -> None:
        """One line a key: how it begins, and what it may do."""
        rows = [
            (
                "key",
                "name",
                "made",
                "expires",
                "queued jobs",
                "tokens a minute",
                "models",
                "priorities",
                "sees",
            )
        ]
        for key in keys:
            expired = " (expired)" if key.expired(now_seconds) else ""
            rows.append(
                (
                    on_one_line(key.prefix),
                    on_one_line(key.name) or "-",
                    _minute(key.created_at),
                    "never" if key.expires_at is None else _minute(key.expires_at) + expired,
                    "any" if key.queued_jobs is None else f"{key.queued_jobs:,}",
                    "any" if key.tokens_per_minute is None else f"{key.tokens_per_minute:,}",
                    on_one_line(", ".join(key.models)) or "any",
                    ", ".join(key.priorities) or "any",
                    "all" if key.sees_all else "own",
                )
            )
        self._columns(rows)

    def _columns(self, rows: Sequence[Sequence[str]]) -> None:
        self._show(lines([Column(title, cells) for title, *cells in zip(*rows, strict=True)]))

    def _show(self, shown: Iterable[str]) -> None:
        for line in shown:
            self.out.print(line, markup=False)


def _minute(seconds: float) -> str:
    """A moment, in this machine's time."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M}"
