"""No job starves (rule 6): passes are bounded, promises are kept, and everything runs in the end."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.batch_account import Holder
from scheduler.foresight import Row
from scheduler.job import PRIORITIES
from scheduler.ledger import Ledger
from tests.properties.planted import fails
from tests.properties.simulated import BUDGET, CHUNK_TOKENS, LIMITS, Simulated

classes = st.integers(0, len(PRIORITIES) - 1)
some_rows = st.one_of(
    st.builds(Row, st.integers(1, 200), st.integers(1, 40)),
    st.builds(Row, st.integers(500, 3000), st.integers(1, 40)),
)
companies = st.sampled_from([None] * 7 + [1, 2, 3])


class Queues(RuleBasedStateMachine):
    """Jobs come in all classes, and end when their tokens are made: some sooner than planned, some later."""

    simulated: ClassVar[type[Simulated]] = Simulated

    def __init__(self) -> None:
        super().__init__()
        self.worker = self.simulated()

    def claim(self) -> None:
        """All that can be claimed."""
        while self.worker.claim() is not None:
            self.no_more_passes_than_allowed()

    @rule(
        which=classes,
        row=some_rows,
        planned=st.none() | st.integers(1, 40),
        part=st.floats(0, 1),
        most=companies,
    )
    def arrive(self, which: int, row: Row, planned: int | None, part: float, most: int | None) -> None:
        """A job comes; its answer is as long as it gets."""
        answer = max(1, round(row.max_tokens * part))
        self.worker.arrive(which, row, planned, answer, most)
        self.claim()

    @rule(loops=st.integers(1, 20))
    def go_on(self, loops: int) -> None:
        """The engine computes; what ends makes room at once."""
        for _ in range(loops):
            self.worker.loop()
            self.claim()

    def teardown(self) -> None:
        """Nobody comes any more: everything that can run runs, in the end."""
        for _ in range(3000):
            if not (self.worker.running or any(map(self.worker.able, range(len(PRIORITIES))))):
                break
            self.worker.loop()
            self.claim()
        assert [self.worker.able(n) for n in range(len(PRIORITIES))] == [[], [], []]
        assert not self.worker.running

    @invariant()
    def no_more_passes_than_allowed(self) -> None:
        """Whoever came first is passed so often and no more, whatever its class."""
        assert max(self.worker.overtaken.values(), default=0) <= LIMITS.max_passes
        assert self.worker.ledger.headroom_bytes >= 0


class Promised(Queues):
    """Answers are as long as planned: then a promise is kept, whoever came after it."""

    @rule(which=classes, row=some_rows, most=companies)
    def arrive(self, which: int, row: Row, most: int | None) -> None:  # type: ignore[override]
        """A job comes, and writes all that it may."""
        self.worker.arrive(which, row, None, row.max_tokens, most)
        self.claim()

    def claim(self) -> None:
        """All that can be claimed; what was promised a start has it by then."""
        while (job := self.worker.claim()) is not None:
            promise = self.worker.promised.pop(job.job_id, None)
            if promise and not promise.disturbed and promise.unpassed_at <= promise.starts_at:
                assert self.worker.now <= promise.starts_at + 1e-6


TestQueues = Queues.TestCase
TestQueues.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPromised = Promised.TestCase
TestPromised.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, derandomize=True, phases=[Phase.generate]
)


class CountsNoPasses(Simulated):
    """A planted bug: a claim that forgets whom it passed."""

    def count(self, passed: tuple[str, ...]) -> None:
        """Not at all."""


class ForgetsReleases(Ledger):
    """A planted bug: what ended holds its memory on."""

    def release(self, holder: Holder) -> None:
        """Not at all."""


class Leaks(Simulated):
    """A worker with such an account."""

    def __init__(self) -> None:
        super().__init__(ledger=ForgetsReleases(BUDGET, CHUNK_TOKENS, 1))


@pytest.mark.parametrize("broken", [CountsNoPasses, Leaks])
def test_the_machine_finds_planted_bugs(broken: type[Simulated], capsys: pytest.CaptureFixture[str]) -> None:
    """With each of these it fails."""
    fails(Queues, capsys, simulated=broken)


def test_the_machine_finds_promises_that_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where everybody passes, one that was promised a start waits beyond it."""
    monkeypatch.setattr("scheduler.backfill.may_pass", lambda *_: True)
    fails(Promised, capsys)
