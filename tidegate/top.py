"""`tidegate top`: looks at an API again and again; what is shown of it is made by :mod:`tidegate.top_view`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import click
from rich.console import Console

from scheduler.errors import ClientError, TidegateError
from scheduler.job import State
from tidegate import live, past
from tidegate.client import Client
from tidegate.past import Past
from tidegate.text import fields_of, list_of, on_one_line
from tidegate.top_view import Jobs, Scene, picture

LISTED: Final = 20
"""Jobs that run, and jobs that wait, from either end of the list."""

_SHARE: Final = 10
"""Lists of jobs are asked for after so many times as long as the last ones took: an API that has many jobs looks at all
of them to find those that have not ended."""


_TOLD_SECONDS: Final = 10
"""Between two looks at the workers' pasts; each but the first asks for twice as much."""


class Watch:
    """One API, looked at now and then.

    Args:
        client: the API.
        clock: monotonic seconds.
        now: Unix seconds.
    """

    def __init__(
        self,
        client: Client,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._clock, self._now = client, clock, now
        self._scene = Scene(client.url)
        self._jobs_due_at = self._past_due_at = clock()
        self._past: dict[str, Past] = {}
        self._told_seconds = past.SECONDS

    def look(self) -> Scene:
        """How it is now; where it does not answer, how it last was, and why.

        No answer is an answer here: nothing is raised.
        """
        try:
            self._scene = self._asked()
        except TidegateError as error:
            self._scene = replace(self._scene, now_seconds=self._now(), problem=str(error))
        return self._scene

    def insist(self) -> Scene:
        """How it is now.

        Raises:
            TidegateError: it does not say.
        """
        return self._asked()

    def _asked(self) -> Scene:
        capacity = self._client.look("/v1/capacity")
        running, waiting = self._scene.running, self._scene.waiting
        began = self._clock()
        if began >= self._jobs_due_at:
            running, waiting = self._jobs(State.IN_PROGRESS), self._jobs(State.QUEUED)
            self._jobs_due_at = self._clock() + _SHARE * (self._clock() - began)
        now = self._now()
        self._remember(capacity, now)
        return Scene(
            self._client.url, capacity, running, waiting, now_seconds=now, seen_seconds=now, past=self._past
        )

    def _remember(self, capacity: dict[str, Any], now: float) -> None:
        """Add to the workers' pasts what they tell of them, and how they are."""
        told: list[Any] = []
        if self._clock() >= self._past_due_at:
            self._past_due_at = self._clock() + _TOLD_SECONDS
            try:
                told = list_of(self._client.look("/v1/tide", seconds=self._told_seconds), "workers")
                self._told_seconds = 2 * _TOLD_SECONDS
            except TidegateError:  # an API of an earlier version tells of none
                self._past_due_at += _TOLD_SECONDS
        live = {on_one_line(each.get("name")): each for each in map(fields_of, list_of(capacity, "workers"))}
        self._past = {name: self._past.get(name, Past()) for name in live}
        for history in map(fields_of, told):
            if (name := on_one_line(history.get("name"))) in self._past:
                self._past[name].take(history)
        for name, worker in live.items():
            self._past[name].note(now, worker)
            self._past[name].forget(now)

    def _page(self, **query: str | int) -> dict[str, Any]:
        """The first page that has jobs: where few are wanted of very many, the first ones may have none."""
        page = self._client.look("/v1/jobs", **query)
        while page.get("has_more") and not page.get("data") and (place := page.get("next_cursor")):
            page = self._client.look("/v1/jobs", **query, after=str(place))
        return page

    def _jobs(self, state: State) -> Jobs:
        page = self._page(limit=LISTED, status=state)
        newest = tuple(job for job in list_of(page, "data") if isinstance(job, dict))
        if not page.get("has_more"):
            return Jobs(newest[::-1])
        oldest: tuple[dict[str, Any], ...] = ()
        with suppress(ClientError):  # an API of an earlier version knows no such order
            page = self._page(limit=LISTED, status=state, order="asc")
            oldest = tuple(job for job in list_of(page, "data") if isinstance(job, dict))
        known = {job.get("id") for job in oldest}
        behind = tuple(job for job in newest[::-1] if job.get("id") not in known)
        # Fewer than two pages may be all there are: then the ends meet.
        return Jobs(oldest + behind) if len(behind) < len(newest) else Jobs(oldest, behind)


def run(client: Client, console: Console, *, once: bool, as_json: bool, seconds: float) -> int:
    """Show one API; the exit status.

    Args:
        client: the API.
        console: where to.
        once: a single frame; so it is too where the console is no terminal, or one that cannot be drawn on.
        as_json: what was answered, once, instead of a picture.
        seconds: between two frames.

    Raises:
        TidegateError: for a single frame: it does not answer.
    """
    watch = Watch(client)
    if as_json:
        click.echo(json.dumps(watch.insist().raw()))
    elif once or not console.is_terminal or console.is_dumb_terminal:
        console.print(picture(watch.insist(), console.width), soft_wrap=True)
    else:
        return live.show(console, lambda width, height: picture(watch.look(), width, height), seconds)
    return 0
