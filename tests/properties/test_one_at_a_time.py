"""Models that run one job at a time, over whole histories of arrivals and ends (rules 5 and 6)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.admission import Candidate
from scheduler.backfill import leaves_room
from scheduler.batch_account import Holder
from scheduler.errors import TransitionRefused
from scheduler.forecast import Rates
from scheduler.foresight import Row
from scheduler.slots import CacheGroup
from tests.cards import PLAIN
from tests.properties.test_claim_order import History, Worker, measured, some_rows

SOLO = replace(
    PLAIN,
    model="solo",
    weights_bytes=1000,
    alone=True,
    caches=(
        CacheGroup("chunked", 2, bytes_per_token=60, window_tokens=300),
        CacheGroup("linear", 2, bytes_per_token=40, state_bytes=500),
    ),
)

arrivals = st.builds(
    Candidate,
    job_id=st.just(""),
    model=st.sampled_from([PLAIN.model, SOLO.model, SOLO.model]),
    row=some_rows,
    counted=st.booleans(),
    company_most=st.sampled_from([None] * 5 + [1, 2]),
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, 2), arrivals),
        st.tuples(st.just("end"), st.integers(0, 31), st.none()),
        st.tuples(st.just("run out"), st.none(), st.none()),
    ),
    max_size=40,
)


class Shared(Worker):
    """A worker with a model whose jobs share a batch, and one whose jobs do not."""

    def __init__(self, rates: Rates | None) -> None:
        super().__init__(rates)
        self.ledger.budget_bytes += SOLO.weights_bytes
        self.ledger.admit_model(SOLO)

    def names_whom_it_passes(self, *_: object) -> None:
        """Those who stand aside are not passed: the rule of the others' is told elsewhere."""

    def claim(self) -> bool:
        """The account is checked beside what every worker's is; who stands aside keeps its room."""
        before = dict(self.ledger.holders)
        waiting = [job for jobs in self.queues for job in jobs if job.model == SOLO.model]
        fitted = bool(self.ledger.rows(SOLO.model)) and [
            self.ledger.fits_without(SOLO.model, job.planned, [*self.ledger.rows(SOLO.model)], self.now + 1.0)
            for job in waiting
        ]
        claimed = super().claim()
        assert len(self.ledger.rows(SOLO.model)) <= 1
        if claimed and fitted:
            (came,) = [holder for holder in self.ledger.holders if holder not in before]
            assert self.jobs[came.job_id].model == PLAIN.model
        return claimed


@settings(max_examples=300, deadline=None)
@given(events, measured)
def test_two_of_them_never_run_at_once(history: History, rates: Rates | None) -> None:
    """After any history; and whoever else is claimed fits, and nobody is passed more often than the bound."""
    worker = Shared(rates)
    worker.live(history)


@settings(max_examples=200, deadline=None)
@given(events, measured)
def test_everything_that_can_run_runs_in_the_end(history: History, rates: Rates | None) -> None:
    """When arrivals stop and jobs go on ending, only what could never run here is left."""
    worker = Shared(rates)
    worker.run_dry(history)
    assert not worker.ledger.holders
    worker.claim()
    assert not worker.ledger.holders
    assert all(max(job.row.tokens for job in jobs) > 1000 for jobs in worker.queues if jobs)


def test_the_account_refuses_a_second_one() -> None:
    """Whoever asked for it: one holds the place until it is released."""
    ledger = Shared(None).ledger
    ledger.reserve(Holder("a", 1), SOLO.model, Row(10, 10))
    assert not ledger.has_place(SOLO.model) and ledger.has_place(PLAIN.model)
    with pytest.raises(TransitionRefused, match="solo runs one job at a time"):
        ledger.reserve(Holder("b", 1), SOLO.model, Row(10, 10))
    ledger.reserve(Holder("c", 1), PLAIN.model, Row(10, 10))
    ledger.release(Holder("a", 1))
    ledger.reserve(Holder("b", 1), SOLO.model, Row(10, 10))


def test_room_is_left_where_a_place_will_be_free() -> None:
    """What starts now must not take what the one that waits will have; unless that would not be enough for it."""
    worker = Shared(None)
    worker.ledger.reserve(Holder("a", 1), SOLO.model, Row(10, 10))
    waiting = ("solo", Row(1500, 100), None)
    assert leaves_room(worker.ledger, waiting, PLAIN.model, Row(10, 10), 0.0)
    assert not leaves_room(worker.ledger, waiting, PLAIN.model, Row(2500, 100), 0.0)
    assert leaves_room(worker.ledger, ("solo", Row(9000, 9000), None), PLAIN.model, Row(2500, 100), 0.0)
