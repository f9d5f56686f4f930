"""One of the stacks that a load is put on: its client, a worker that claims from it, and what was accepted and measured."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

import psutil

from benchmarks.asker import Asker
from benchmarks.claimer import MODEL, Claimer, put_in
from benchmarks.stack import Stack

_BODY: Final = {"model": MODEL, "prompt": "The tide comes in. " * 6, "max_tokens": 16, "priority": "batch"}
"""Of class `batch`, which no wait is too long for; the streams' jobs, of class `standard`, come before."""


_UNAVAILABLE: Final = 503
_AGAIN_SECONDS: Final = 0.05


@dataclass(slots=True)
class Side:
    """A stack, a client of it, a worker that claims from it; what was accepted; by question, times and CPU time."""

    running: Stack
    asker: Asker
    claimer: Claimer
    accepted: set[str] = field(default_factory=set)
    refused: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def api(self) -> psutil.Process:
        """The API's process: gunicorn's one worker."""
        return psutil.Process(self.running.api.pid).children()[0]

    @property
    def server(self) -> psutil.Process:
        """The queue's server."""
        info: Any = self.running.connection.info("server")
        return psutil.Process(info["process_id"])

    def memory(self) -> dict[str, int]:
        """Bytes: the API's own, and what the server says that its data takes."""
        info: Any = self.running.connection.info("memory")
        return {"api": self.api.memory_full_info().uss, "server": info["used_memory"]}

    def lost(self) -> int:
        """Of the accepted jobs, those that are neither there nor were deleted by their client."""
        known = {rec.id for rec in self.running.lifecycle.queue.headings(sorted(self.accepted))}
        return len(self.accepted - known)

    def submit(self, asker: Asker | None = None) -> float:
        """Submit a job, again where it was refused; the seconds of the last try."""
        # A machine may be so busy that the server does not answer the API within its time.
        while (said := (asker or self.asker).ask("POST", "/v1/jobs", _BODY)).status == _UNAVAILABLE:
            self.refused += 1
            time.sleep(_AGAIN_SECONDS)
        self.accepted.add(said.insist(202)["id"])
        return said.seconds

    def put_in(self, count: int) -> None:
        """Let jobs wait by the same swap, without a client."""
        put_in(self.claimer.queue, count, [""], "batch")
