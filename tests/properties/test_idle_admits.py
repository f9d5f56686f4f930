"""Idle means it admits (rule 5): whatever was read of memory before, a job that could run alone is claimed."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.footprint import alone_bytes
from scheduler.job import PRIORITIES, State
from scheduler.ledger import Ledger
from scheduler.outcome import Outcome
from scheduler.pressure import FLOOR
from tests.cards import PLAIN
from tests.properties.board import BUDGET, Board, Worker
from tests.properties.planted import fails


class Pressed(RuleBasedStateMachine):
    """A worker whose host gives less and less, whose memory runs out, whose clock is set."""

    worker_type: ClassVar[type[Worker]] = Worker

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()
        self.worker = self.worker_type(self.board, "one")

    @rule(priority=st.sampled_from(PRIORITIES), prompt=st.integers(1, 3500), answer=st.integers(1, 60))
    def submit(self, priority: str, prompt: int, answer: int) -> None:
        """A job comes; some could never run here."""
        self.board.submit(priority, prompt, answer)

    @rule()
    def run_out(self) -> None:
        """Memory ran out in spite of the account."""
        self.worker.ledger.ran_out(self.board.now)

    @rule(reading=st.just(0) | st.integers(0, 2 * BUDGET))
    def read_the_host(self, reading: int) -> None:
        """What the host can give just now."""
        self.worker.ledger.pressure.read(reading, self.board.now)

    @rule(cache=st.integers(0, 2 * BUDGET))
    def note_cache(self, cache: int) -> None:
        """The engine keeps freed buffers."""
        self.worker.ledger.note_cache(cache)

    @rule(seconds=st.floats(-3600, 3600))
    def time_passes(self, seconds: float) -> None:
        """Forward, or backward where the clock is set."""
        self.board.now += seconds

    @rule()
    def work(self) -> None:
        """Claim what fits beside what runs."""
        self.worker.work()

    @rule()
    def end_all_and_go_on(self) -> None:
        """Nothing runs any more: the next job is claimed, if there is one that could ever run."""
        desk = self.worker.desk
        for held in list(desk.running.values()):
            desk.end(held, Outcome(State.CANCELLED))
        rows = [self.board.jobs[job_id].row for queue in self.board.queues.values() for job_id in queue]
        able = any(alone_bytes(PLAIN, row, 64) <= BUDGET for row in rows)
        self.worker.work()
        assert bool(desk.running) == able

    @invariant()
    def never_less_than_the_floor(self) -> None:
        """Pressure falls off with time, whatever the clock does."""
        assert FLOOR <= self.worker.ledger.working_share(self.board.now) <= 1.0
        assert self.worker.ledger.working_share(self.board.now + 7200) == 1.0


TestPressed = Pressed.TestCase
TestPressed.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class TakesReadingsToHeart(Ledger):
    """A planted bug: a host that can give nothing keeps an idle worker from its work."""

    def _room(self, now_seconds: float, *, company: bool) -> float:
        return super()._room(now_seconds, company=True)


class Latches(Ledger):
    """A planted bug: once memory ran out, half of the budget is all there ever is."""

    def ran_out(self, now_seconds: float) -> None:
        super().ran_out(now_seconds)
        self.budget_bytes = BUDGET // 2


class CountsCache(Ledger):
    """A planted bug: freed buffers are in the way of jobs."""

    def fits(self, model: str, row: object, now_seconds: float) -> bool:
        return super().fits(model, row, now_seconds) and self.headroom_bytes > 0  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [TakesReadingsToHeart, Latches, CountsCache])
def test_the_machine_finds_planted_bugs(broken: type[Ledger], capsys: pytest.CaptureFixture[str]) -> None:
    """With each of these it fails."""
    fails(Pressed, capsys, worker_type=type("Pressing", (Worker,), {"ledger_type": broken}))
