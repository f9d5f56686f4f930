"""What the recovery machine draws and goes by: jobs, workers in a test's hands, and what must become of whom."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st

from scheduler.blame import Fault
from scheduler.footprint import alone_bytes
from scheduler.foresight import Row
from scheduler.job import PRIORITIES
from tests.cards import PLAIN
from tests.pretend_engine import PretendSupervisor
from tests.pretend_truth import BUDGET, DOES, Asked
from workers.runner import Runner

CHUNK: Final = 512
CODES: Final = {
    Fault.OUT_OF_MEMORY: {"insufficient_memory"},
    Fault.RESOURCE_LIMIT: {"insufficient_memory"},
    Fault.BUFFER_TOO_LARGE: {"memory_never_fits"},
    Fault.GPU_TIMEOUT: {"engine_timeout"},
    Fault.VICTIM: {"worker_killed", "internal_error"},
}
"""What a job fails with that met a fault alone too often."""

Extra = dict[str, Any]


@st.composite
def a_job(draw: st.DrawFn) -> tuple[Asked, str, Extra]:
    """What is asked for, in which class, and what else; one in four ends its engine once it made so many tokens."""
    does, at = draw(st.sampled_from(["x"] * 12 + [*DOES])), draw(st.integers(0, 6))
    size = draw(st.sampled_from([20, 60, 120, 200, 240, 480, 900, 1800, 3800])) + draw(st.integers(0, 40))
    extra = {
        "max_attempts": st.integers(1, 3),
        "stop": st.sampled_from([["w1"], ["w77", "5"]]),
        "logprobs": st.just(0),
    }
    more: Extra = draw(st.fixed_dictionaries({}, optional=extra))
    seed, answer = draw(st.integers(0, 1 << 32)), draw(st.sampled_from([24, 12, 5, 1]))
    asked = Asked(f"{does}{at:02}", size, seed, answer, tuple(more.get("stop", ())))
    return asked, draw(st.sampled_from(PRIORITIES)), more


JOB = a_job()


class Hand:
    """One worker, and its loop in the hands of the test.

    Args:
        name: its own.
        made: its runner.
    """

    def __init__(self, name: str, made: Runner) -> None:
        self.name, self.runner = name, made
        self.runner.open()

    @property
    def supervisor(self) -> PretendSupervisor:
        """Of its engines."""
        supervisor: Any = self.runner.supervisor
        return supervisor

    @property
    def at_work(self) -> Sequence[str]:
        """The jobs that would be asked if its engine died now."""
        desk = self.runner._desk
        return sorted(desk.granted or desk.running)

    def turn(self) -> None:
        """Claim what fits, let the engine do its turn, hear of it."""
        while (held := self.runner.claim()) is not None:
            self.runner.launch(held)
        if self.supervisor.engine is not None:
            self.supervisor.engine.turn()
        self.runner.pump(0.0)

    def die(self) -> None:
        """Without a word; the pipe's end ends the engine."""
        self.supervisor.stop()
        os.close(self.runner._wake_read)
        os.close(self.runner._wake_write)


def own_faults(asked: Asked, limit_bytes: int) -> set[str]:
    """What a job fails of by itself; empty where it is innocent."""
    does = asked.does
    own = set(CODES.get(does.fault, ())) if does is not None else set()
    if does is not None and does.fault is Fault.BUG:
        own.add("internal_error" if does.exit_code is None else "worker_killed")
    if asked.alone_bytes > limit_bytes:
        own.add("insufficient_memory")
    if too_large(asked):
        own.add("memory_never_fits")
    return own


def too_large(asked: Asked) -> bool:
    """Whether a job needs more than workers are told that they have."""
    row = Row(asked.size, asked.max_tokens)
    return alone_bytes(PLAIN, row, CHUNK) > BUDGET


def check_numbers(error: dict[str, Any]) -> None:
    """What clients go by."""
    statuses = {"insufficient_memory": 503, "memory_never_fits": 413, "engine_timeout": 504}
    assert error["status"] == statuses.get(error["code"], 500)
    assert error["retryable"] == (error["code"] in {"insufficient_memory", "engine_timeout"})
    if error["retryable"]:
        assert 1 <= error["retry_after"] <= 120
    if error["code"] == "insufficient_memory":
        assert error["message"].startswith("insufficient memory")
        assert error["estimated_bytes"] > 0 and error["limit_bytes"] > 0
