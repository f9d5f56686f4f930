"""A job holds memory if and only if it is in progress on a live worker (rule 2), whatever befalls two workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from scheduler.batch_account import Holder
from scheduler.blame import Failure, Fault
from scheduler.holding import Held, Progress
from scheduler.job import PRIORITIES, State
from scheduler.ledger import Ledger
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from tests.properties.board import BUDGET, SETTINGS, Board, Worker
from tests.properties.planted import fails
from workers.desk import Desk, key_of

names = st.sampled_from(["one", "two"])
picks = st.integers(0, 7)


class TwoWorkers(RuleBasedStateMachine):
    """Jobs come, are claimed, go on, end, are shed, preempted, lost, and put back."""

    worker_type: ClassVar[type[Worker]] = Worker

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()
        self.workers = {name: self.worker_type(self.board, name) for name in ("one", "two")}
        self.silent: set[str] = set()

    def some(self, name: str, pick: int) -> Held | None:
        """One of a worker's jobs."""
        running = [*self.workers[name].desk.running.values()]
        return running[pick % len(running)] if running else None

    @initialize(prompts=st.lists(st.integers(1, 1500), min_size=4, max_size=10))
    def begin(self, prompts: list[int]) -> None:
        """Batch work fills both."""
        for prompt in prompts:
            self.board.submit("batch", prompt, 60)
        for worker in self.workers.values():
            worker.work()

    @rule(name=names, prompt=st.integers(1, 1500))
    def hurry(self, name: str, prompt: int) -> None:
        """Interactive work comes, and a worker looks at once."""
        self.board.submit("interactive", prompt, 20)
        self.work(name)

    @rule(priority=st.sampled_from(PRIORITIES), prompt=st.integers(1, 1500), answer=st.integers(1, 60))
    def submit(self, priority: str, prompt: int, answer: int) -> None:
        """A job comes; it may be too large for both."""
        self.board.submit(priority, prompt, answer)

    @rule(name=names)
    def work(self, name: str) -> None:
        """A worker claims what it can; a silent one does not know it, and finds that others have its jobs."""
        self.hear_again(name)
        self.workers[name].work()

    @rule(name=names, pick=picks, tokens=st.integers(1, 30), ends=st.booleans())
    def go_on(self, name: str, pick: int, tokens: int, ends: bool) -> None:
        """The engine computes a prompt, and some tokens, more than were planned too; perhaps the job ends."""
        self.hear_again(name)
        held, desk = self.some(name, pick), self.workers[name].desk
        if held is None:
            return
        desk.note_progress({"computed": {key_of(held): held.rec.meta.prompt_tokens + held.resumed_tokens}})
        left = held.rec.meta.max_tokens - len(held.tokens)
        made = min(tokens, left)
        ends = ends or made == left
        desk.write([Progress(held, {"tokens": [7] * made}, Outcome(State.COMPLETED, {}) if ends else None)])
        desk.tell_progress()

    @rule(name=names, pick=picks)
    def shed(self, name: str, pick: int) -> None:
        """Memory ran short."""
        self.hear_again(name)
        worker, held = self.workers[name], self.some(name, pick)
        if held is not None:
            worker.ledger.ran_out(self.board.now)
            worker.desk.put_back(held, Reason.MEMORY, replace(held.rec.meta, sheds=held.rec.meta.sheds + 1))

    @rule(name=names, pick=picks, fault=st.sampled_from(Fault))
    def fail(self, name: str, pick: int, fault: Fault) -> None:
        """The engine raised: the job waits again, is tried alone, or ends."""
        self.hear_again(name)
        held, desk = self.some(name, pick), self.workers[name].desk
        if held is not None:
            desk.judge([held], Failure(fault, died=False, company=len(desk.running)))

    @rule(name=names, fault=st.sampled_from(Fault))
    def engine_dies(self, name: str, fault: Fault) -> None:
        """All of a worker's jobs wait again, or end; the next engine begins with an empty account."""
        self.hear_again(name)
        desk = self.workers[name].desk
        desk.judge([*desk.running.values()], Failure(fault, died=True, company=len(desk.running)))
        desk.put_back_all(Reason.ENGINE_LOST)
        self.no_memory_is_left(name)
        self.workers[name].start()

    @rule(name=names)
    def worker_dies(self, name: str) -> None:
        """Another process takes its place, once its lease has lapsed."""
        self.board.recover(name)
        self.workers[name] = self.worker_type(self.board, name)
        self.silent.discard(name)

    @rule(name=names)
    def worker_falls_silent(self, name: str) -> None:
        """Its lease lapses while it lives: others have its jobs, and it does not know."""
        self.board.recover(name)
        self.silent.add(name)

    @invariant()
    def nobody_has_more_company_than_it_may_have(self) -> None:
        """Of those who failed together, however they came together again."""
        for worker in self.workers.values():
            running = [held.rec.meta.company_most for held in worker.desk.running.values()]
            assert all(most is None or len(running) <= most for most in running)

    def hear_again(self, name: str) -> None:
        """A silent worker's next write tells it what it lost."""
        if name in self.silent:
            desk = self.workers[name].desk
            desk.write([Progress(held, {"text": "late"}) for held in desk.running.values()])
            self.silent.discard(name)

    def no_memory_is_left(self, name: str) -> None:
        """Nothing in hand, nothing held."""
        assert self.workers[name].ledger.reserved_bytes == 0

    @invariant()
    def memory_is_held_by_what_is_in_progress(self) -> None:
        """By these attempts and no others; and a job is in one place."""
        for name in set(self.workers) - self.silent:
            worker = self.workers[name]
            assert set(worker.ledger.holders) == self.board.held_by(name)
            assert {held.holder for held in worker.desk.running.values()} == set(worker.ledger.holders)
            assert worker.ledger.headroom_bytes >= 0
            if not worker.ledger.holders:
                self.no_memory_is_left(name)
            assert worker.ledger.budget_bytes == BUDGET
        waiting = [job_id for queue in self.board.queues.values() for job_id in queue]
        queued = [rec.id for rec in self.board.jobs.values() if rec.state is State.QUEUED]
        assert sorted(waiting) == queued

    @invariant()
    def only_batch_work_is_preempted_and_only_so_often(self) -> None:
        """Whatever else befell it."""
        for rec in self.board.jobs.values():
            most = SETTINGS.max_preemptions if rec.meta.priority == "batch" else 0
            assert rec.meta.preemptions <= most
            assert self.board.preempted[rec.id] <= most


TestTwoWorkers = TwoWorkers.TestCase
TestTwoWorkers.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class ForgetsReleases(Ledger):
    """A planted bug: what ended holds its memory on."""

    def release(self, holder: Holder) -> None:
        """Not at all."""


class KeepsTheLost(Desk):
    """A planted bug: jobs that another attempt has stay in hand."""

    def write(self, progress: list[Progress]) -> None:  # type: ignore[override]
        """As if every write were the holder's."""
        self._holding.send(self._holding.prepare(progress), [item.held for item in progress])
        for item in progress:
            if item.outcome is not None:
                self._let_go(item.held)


class Hoards(Worker):
    """A worker whose account forgets releases."""

    ledger_type = ForgetsReleases


class Deaf(Worker):
    """A worker that does not hear what it lost."""

    desk_type = KeepsTheLost


class CountsNoPreemption(Desk):
    """A planted bug: a job that is put back for another's sake does not know it."""

    def preempt(self, holders: Iterable[Holder]) -> None:
        """As where memory ran short."""
        for held in [held for held in self.running.values() if held.holder in set(holders)]:
            self.put_back(held, Reason.PREEMPTED)


class Ruthless(Worker):
    """A worker that preempts without end."""

    desk_type = CountsNoPreemption


@pytest.mark.parametrize("broken", [Hoards, Deaf, Ruthless])
def test_the_machine_finds_planted_bugs(broken: type[Worker], capsys: pytest.CaptureFixture[str]) -> None:
    """With each of these it fails."""
    fails(TwoWorkers, capsys, worker_type=broken)
