"""What is claimed next, over whole histories of arrivals and ends (rules 5 and 6)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.admission import Candidate, Choice, Limits, choose, hopeless
from scheduler.backfill import Promises
from scheduler.batch_account import Holder
from scheduler.forecast import Rates
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from tests.cards import PLAIN

BUDGET = PLAIN.weights_bytes + 400_000
MAX_PASSES = 3

some_rows = st.one_of(
    st.builds(Row, st.integers(1, 50), st.integers(1, 50)),
    st.builds(Row, st.integers(1, 3000), st.integers(1, 500)),
)
arrivals = st.builds(
    Candidate,
    job_id=st.just(""),
    model=st.sampled_from([PLAIN.model] * 9 + ["elsewhere"]),
    row=some_rows,
    counted=st.booleans(),
    company_most=st.sampled_from([None] * 5 + [1, 2, 3]),
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, 2), arrivals),
        st.tuples(st.just("end"), st.integers(0, 31), st.none()),
        st.tuples(st.just("run out"), st.none(), st.none()),
    ),
    max_size=40,
)
measured = st.sampled_from([None, Rates(step_seconds=0.05, prompt_token_seconds=0.001)])


History = list[tuple[str, int, Candidate]]


class Worker:
    """One worker and its three queues, without a store."""

    def __init__(self, rates: Rates | None) -> None:
        self.rates, self.promises = rates, Promises()
        self.ledger = Ledger(BUDGET, 64, 2)
        self.ledger.admit_model(PLAIN)
        self.queues: list[list[Candidate]] = [[], [], []]
        self.passes: Counter[str] = Counter()
        self.jobs: dict[str, Candidate] = {}
        self.now = 0.0

    def arrive(self, which: int, candidate: Candidate) -> None:
        """A job comes to wait."""
        made = replace(candidate, job_id=f"job_{len(self.jobs)}", arrived_at=float(len(self.jobs)))
        self.jobs[made.job_id] = made
        self.queues[which].append(made)

    def live(self, history: History) -> None:
        """Let it happen, claiming whatever can be; nobody is passed too often, and whoever is claimed fits."""
        for what, which, candidate in history:
            if what == "arrive":
                self.arrive(which, candidate)
            elif what == "end":
                self.end(which)
            else:
                self.ledger.ran_out(self.now)
            while self.claim():
                assert max(self.passes.values(), default=0) <= MAX_PASSES
                assert self.ledger.headroom_bytes >= 0

    def run_dry(self, history: History) -> None:
        """Let all arrive, then end one after another what could be claimed."""
        for what, which, candidate in history:
            if what == "arrive":
                self.arrive(which, candidate)
            elif what == "run out":
                self.ledger.ran_out(self.now)
        for _ in range(2 * len(history) + 2):
            while self.claim():
                pass
            self.end(0)

    def end(self, which: int) -> None:
        """Some running job ends."""
        holders = list(self.ledger.holders)
        if holders:
            self.ledger.release(holders[which % len(holders)])

    @property
    def bounds(self) -> dict[Holder, int]:
        """How much company those that run may have."""
        found = {holder: self.jobs[holder.job_id].company_most for holder in self.ledger.holders}
        return {holder: most for holder, most in found.items() if most is not None}

    def claim(self) -> bool:
        """Claim what is next; the account, the order and the bound are checked."""
        self.now += 1.0
        seen = [[replace(job, passes=self.passes[job.job_id]) for job in jobs] for jobs in self.queues]
        waiting = [job for jobs in seen for job in jobs]
        limits = Limits(8, MAX_PASSES, bounds=self.bounds)
        choice = choose(seen, self.ledger, self.now, limits, self.rates, self.promises).choice
        strangers = [job for job in waiting if job.model not in self.ledger.cards]
        able = [job for job in waiting if job in strangers or not hopeless(self.ledger, job)]
        if choice is None:
            kept = any(job.passes >= MAX_PASSES for job in strangers)  # until its model is loaded
            assert self.ledger.holders or kept or able == strangers, "idle, and something could run"
            return False
        self.names_whom_it_passes(seen, choice, able)
        self.ledger.reserve(Holder(choice.candidate.job_id, 1), choice.candidate.model, choice.row)
        assert len(self.ledger.holders) <= min([8, *self.bounds.values()])
        for jobs in self.queues:
            jobs[:] = [job for job in jobs if job.job_id != choice.candidate.job_id]
        self.passes.update(choice.passed)
        del self.passes[choice.candidate.job_id]
        return True

    def names_whom_it_passes(
        self, seen: list[list[Candidate]], choice: Choice, able: list[Candidate]
    ) -> None:
        """Those of its class that stand before it, the more urgent ones, and of each less urgent class the first
        where that came earlier; who has its turn because it, or one behind it, was passed too often passes no class.
        """
        mine = next(n for n, jobs in enumerate(seen) if choice.candidate in jobs)
        at = seen[mine].index(choice.candidate)
        owed = any(job.passes >= MAX_PASSES for job in seen[mine][at:])
        wanted = {job.job_id for job in seen[mine][:at] if job in able}
        if not owed:
            wanted |= {job.job_id for jobs in seen[:mine] for job in jobs if job in able}
            heads = [next((job for job in jobs if job in able), None) for jobs in seen[mine + 1 :]]
            came = choice.candidate.arrived_at
            wanted |= {job.job_id for job in heads if job is not None and job.arrived_at < came}
            assert set(choice.passed) == wanted
        assert wanted <= set(choice.passed) <= {job.job_id for job in able}
        assert len(set(choice.passed)) == len(choice.passed)


@settings(max_examples=300, deadline=None)
@given(events, measured)
def test_no_job_is_passed_more_often_than_the_bound(history: History, rates: Rates | None) -> None:
    """After any history; whoever is claimed fits, and an idle worker always claims what could run."""
    worker = Worker(rates)
    worker.live(history)


@settings(max_examples=200, deadline=None)
@given(events, measured)
def test_everything_that_can_run_runs_in_the_end(history: History, rates: Rates | None) -> None:
    """When arrivals stop and jobs go on ending, only what could never run here is left."""
    worker = Worker(rates)
    worker.run_dry(history)
    left = [job for jobs in worker.queues for job in jobs]
    if any(job.model not in worker.ledger.cards for job in left):
        return  # whoever stands behind it waits for its model
    assert [
        job for job in left if job.model in worker.ledger.cards and not hopeless(worker.ledger, job)
    ] == []
    assert not worker.ledger.holders
