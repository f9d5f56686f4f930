"""`tidegate jobs --watch`: a list of jobs that is kept up to date, or, where nobody looks, what changes in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.text import Text

from scheduler.errors import TidegateError
from tidegate import job_rows, live
from tidegate.columns import joined, lines
from tidegate.terminal import Terminal
from tidegate.text import on_one_line

Job = dict[str, Any]


class Watched:
    """Jobs as they were last seen, and the trouble in seeing them.

    Args:
        look: asks for them.
        prepare: asks what is done to models that no worker has ready; for the list alone.
    """

    def __init__(
        self, look: Callable[[], Sequence[Job]], prepare: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self._look, self._prepare = look, prepare
        self._jobs: list[Job] = []
        self._preparing: Mapping[str, str] = {}
        self._said: dict[str, Job] = {}
        self.problem = ""

    def refresh(self) -> None:
        """Ask for them; where nobody answers, they stay as they were."""
        try:
            self._jobs, self.problem = list(self._look()), ""
            self._preparing = self._prepare() if any(job.get("queue") for job in self._jobs) else {}
        except TidegateError as error:
            self.problem = str(error)

    def picture(self, width: int, height: int) -> RenderableType:
        """As many as there are lines for, the newest first."""
        shown = [joined([f"✗ {on_one_line(self.problem)}; trying again"], width)] if self.problem else []
        shown += lines(job_rows.listed(self._jobs, self._preparing), width)
        return Text("\n".join(shown[:height]), no_wrap=True, overflow="crop")

    def changed(self) -> list[Job]:
        """Those that are not as they were when this was last asked, the oldest first; a place in the queue is nothing.

        What is not listed any more is forgotten.
        """
        now = {str(job.get("id")): {**job, "queue": None} for job in self._jobs}
        found = [job for job in reversed(self._jobs) if self._said.get(key := str(job.get("id"))) != now[key]]
        self._said = now
        return found


class Growing:
    """A list in columns to which lines are added below: all columns from the first on, and as wide as they were."""

    def __init__(self) -> None:
        self._widths: list[int] = []

    def lines(self, jobs: Sequence[Job]) -> list[str]:
        """The jobs' lines, with the titles above the first that there are."""
        if not jobs:
            return []
        columns, first = job_rows.listed(jobs, whatever=True), not self._widths
        before = self._widths or [0] * len(columns)
        self._widths = [max(column.width, width) for column, width in zip(columns, before, strict=True)]
        shown = lines(columns, widths=self._widths)
        return shown if first else shown[1:]


def watch(
    look: Callable[[], Sequence[Job]],
    terminal: Terminal,
    *,
    seconds: float,
    as_json: bool,
    prepare: Callable[[], Mapping[str, str]] = dict,
) -> int:
    """Watch jobs until Ctrl-C, or `q` where there is a screen; the exit status.

    Args:
        look: asks for them.
        terminal: where to show them: on a screen the list, elsewhere, or as JSON, each job that changed, on a line.
        seconds: between two looks.
        as_json: each as JSON.
        prepare: asks what is done to models that no worker has ready.
    """
    screen = terminal.has_screen and not as_json
    watched = Watched(look, prepare if screen else dict)
    if screen:

        def frame(width: int, height: int) -> RenderableType:
            watched.refresh()
            return watched.picture(width, height)

        return live.show(terminal.out, frame, seconds)
    before, told = "", Growing()

    def tell() -> None:
        nonlocal before
        watched.refresh()
        if watched.problem and watched.problem != before:
            terminal.note(watched.problem)
        before = watched.problem
        changed = watched.changed()
        for line in map(json.dumps, changed) if as_json else told.lines(changed):
            click.echo(line)

    return live.repeat(tell, seconds)
