"""When the worker hears of what the engine's steps brought: at once where somebody waits for it, else now and then.

A first token, an end and a prompt's progress are told in the loop that brings them. What running jobs write beside that
is told together some tens of times a second, which is as smooth to a reader as every token by itself; where steps take
longer than that, it is every step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from scheduler.foresight import LATE_TOKENS
from workers.engine_job import JobStep, packed
from workers.wire import Message

TELL_SECONDS: Final = 1 / 30


class Telling:
    """What one engine tells of its loops.

    Args:
        send: tells the worker.
        clock: monotonic seconds.
    """

    def __init__(self, send: Callable[[Message], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._due_at, self._loops = 0.0, 0
        self._peak_bytes = 0
        self._quiet: list[float] = []
        """Seconds of the loops that computed no prompt, since they were last told."""

    def tell(
        self,
        urgent: Sequence[JobStep],
        in_use: Callable[[int], dict[str, int]],
        untold: Callable[[], Iterable[JobStep]] = tuple,
        *,
        peak_bytes: int = 0,
        seconds: float | None = None,
        computed: Mapping[str, int] | None = None,
        reused: Mapping[str, int] | None = None,
        extents: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell of a loop what cannot wait, and of those before it what is due.

        Args:
            urgent: jobs' news that somebody waits for.
            in_use: what memory is in use, its peak at least so many bytes.
            untold: takes the news of all others.
            peak_bytes: of the loop.
            seconds: that it took.
            computed: how far it came with prompts, by key.
            reused: of that, what was not computed but kept of other jobs.
            extents: the caches that it changed, by model.
        """
        self._peak_bytes = max(self._peak_bytes, peak_bytes)
        if seconds is not None:
            self._loops += 1
            if not computed:
                self._quiet.append(seconds)
        steps, now = [*urgent], self._clock()
        told: dict[str, Any] = {"computed": computed, "reused": reused, "extents": extents}
        if computed:
            told["seconds"] = seconds
        if now >= self._due_at:
            self._due_at, self._loops = now + TELL_SECONDS, 0
            steps += untold()
            if self._quiet and not computed:
                told["seconds"] = sum(self._quiet) / len(self._quiet)
                self._quiet.clear()
        told = {name: each for name, each in told.items() if each}
        if steps or told:
            at = round(time.time(), 4)
            memory, self._peak_bytes = in_use(self._peak_bytes), 0
            told |= {"steps": [packed(step, at) for step in steps], "memory": memory}
            self._send({"kind": "step"} | told)

    def catch_up(
        self, in_use: Callable[[int], dict[str, int]], untold: Callable[[], Iterable[JobStep]]
    ) -> None:
        """Tell now what was not told of more loops than are foreseen to be: the worker is about to decide by that."""
        if self._loops > LATE_TOKENS // 2:  # more follow until it has decided
            self._due_at = -math.inf
            self.tell((), in_use, untold)
