"""A job that kills engines is found among many, and costs the others no more than time (DESIGN, running out)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import blame
from scheduler.admission import Candidate, Limits, choose
from scheduler.backfill import Promises
from scheduler.batch_account import Holder
from scheduler.blame import Failure, Fault, judge_failure
from scheduler.errors import ClientError
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from scheduler.record import Meta
from tests.cards import PLAIN
from workers.breaker import DEATHS_MOST

MAX_BATCH = 32
MAX_PASSES = 64
MAX_ATTEMPTS = 2
ROW = Row(10, 10)


class Engines:
    """One worker's engines, one after another: any that holds a killer may die at any moment.

    Jobs are named so that their names sort as they came.
    """

    def __init__(self, jobs: int, killers: set[int], *, died: bool, fault: Fault) -> None:
        self.died, self.fault = died, fault
        self.metas = {f"job_{n:02}": Meta() for n in range(jobs)}
        self.killers = {f"job_{n:02}" for n in killers}
        self.queue = list(self.metas)
        self.running: list[str] = []
        self.done: set[str] = set()
        self.errors: dict[str, ClientError] = {}
        self.deaths: Counter[str] = Counter()
        """Of engines, by killer that was there."""
        self.failed = 0

    def claim(self) -> None:
        """All that may join those who run; nobody gets more company than it may have."""
        ledger = Ledger(1 << 40, 512, 4)
        ledger.admit_model(PLAIN)
        for name in self.running:
            ledger.reserve(Holder(name, 1), PLAIN.model, ROW)
        while True:
            bounds = {
                Holder(name, 1): most for name in self.running if (most := self.metas[name].company_most)
            }
            waiting = [
                Candidate(name, PLAIN.model, ROW, company_most=self.metas[name].company_most)
                for name in self.queue
            ]
            limits = Limits(MAX_BATCH, MAX_PASSES, bounds=bounds)
            choice = choose([waiting], ledger, 0.0, limits, None, Promises()).choice
            if choice is None:
                break
            name = choice.candidate.job_id
            self.queue.remove(name)
            self.running.append(name)
            ledger.reserve(Holder(name, 1), PLAIN.model, choice.row)
        company = len(self.running)
        assert company <= min(
            [MAX_BATCH, *(self.metas[name].company_most or company for name in self.running)]
        )
        assert self.running or not self.queue, "nothing runs, and nothing is claimed"

    def fail(self) -> None:
        """The engine dies, or its batch raises, and its jobs go to the front in their order, as the desk has it."""
        self.failed += 1
        self.deaths.update(self.killers & set(self.running))
        failure = Failure(self.fault, died=self.died, company=len(self.running))
        back = []
        for name in sorted(self.running):
            verdict = judge_failure(self.metas[name], failure, MAX_ATTEMPTS, 1.0)
            if isinstance(verdict, ClientError):
                self.errors[name] = verdict
            else:
                self.metas[name] = verdict
                back.append(name)
        self.queue, self.running = back + self.queue, []

    def run(self, ends: Callable[[int], int], strikes: Callable[[], bool]) -> None:
        """Everything, to its end.

        Args:
            ends: which of so many innocents ends next.
            strikes: whether the killer kills before that.
        """
        while self.queue or self.running:
            self.claim()
            innocents = [name for name in self.running if name not in self.killers]
            if len(innocents) < len(self.running) and (not innocents or strikes()):
                self.fail()
            else:
                name = innocents[ends(len(innocents))]
                self.running.remove(name)
                self.done.add(name)


def failures_most(jobs: int) -> int:
    """In how many failures one killer is found: once together, then as often as its company can be halved, and alone."""
    return blame.GROUP_FAILURES + math.floor(math.log2(min(jobs, MAX_BATCH))) + MAX_ATTEMPTS


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.integers(2, 40),
    st.booleans(),
    st.sampled_from([Fault.BUG, Fault.OUT_OF_MEMORY, Fault.GPU_TIMEOUT, Fault.RESOURCE_LIMIT]),
)
def test_killers_are_found_and_innocents_complete(
    data: st.DataObject, jobs: int, died: bool, fault: Fault
) -> None:
    """One or two killers among many, whoever ends when: the killers alone end with an error, each after few failures."""
    killers = data.draw(st.sets(st.integers(0, jobs - 1), min_size=1, max_size=2), "killers")
    engines = Engines(jobs, killers, died=died, fault=fault)
    engines.run(
        lambda count: data.draw(st.integers(0, count - 1), "ends"),
        lambda: data.draw(st.booleans(), "strikes"),
    )
    assert engines.done == set(engines.metas) - engines.killers
    assert set(engines.errors) == engines.killers
    codes = {
        Fault.BUG: "worker_killed" if died else "internal_error",
        Fault.GPU_TIMEOUT: "engine_timeout",
    }
    assert {error.code for error in engines.errors.values()} == {codes.get(fault, "insufficient_memory")}
    assert max(engines.deaths.values()) <= failures_most(jobs)
    assert engines.failed <= len(killers) * failures_most(jobs)


def found_among(jobs: int, killer: int) -> Engines:
    """A killer that kills as soon as it runs."""
    engines = Engines(jobs, {killer}, died=True, fault=Fault.BUG)
    engines.run(lambda _: 0, lambda: True)
    return engines


@pytest.mark.parametrize("killer", [0, 13, 31])
def test_one_poison_job_among_32_takes_eight_deaths(killer: int) -> None:
    """32, 32, 16, 8, 4, 2, alone and alone again: what the breaker must let pass; nobody else ran alone but one."""
    engines = found_among(32, killer)
    assert engines.failed == failures_most(32) == 8
    assert engines.failed < DEATHS_MOST
    alone = [name for name, meta in engines.metas.items() if meta.company_most == 1]
    assert len(alone) == 2
    bounds = Counter(meta.company_most for meta in engines.metas.values())
    assert bounds == {16: 16, 8: 8, 4: 4, 2: 2, 1: 2}


def test_a_group_that_is_not_halved_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: jobs that failed together stay together, and a killer among them is never found."""
    monkeypatch.setattr(blame, "_halved", lambda meta, _: replace(meta, company_most=2))
    engines = Engines(8, {0}, died=True, fault=Fault.BUG)
    for _ in range(4 * failures_most(8)):
        engines.claim()
        engines.fail()
    assert engines.errors == {}
