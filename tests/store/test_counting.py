"""What a worker counts of its jobs, by its real desk, and that its reports carry it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from scheduler.blame import Failure, Fault
from scheduler.fleet import live_workers
from scheduler.job import PRIORITIES, State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.measures import Laid
from scheduler.reasons import Reason
from scheduler.request import read_request
from scheduler.tally import Tally
from tests.conftest import MODEL
from tests.plans import WORST_CASE
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from workers.desk import Desk, key_of
from workers.joined_steps import progress_of
from workers.reporting import NOTHING_READ, Reporting


@pytest.fixture
def reporting(lifecycle: Lifecycle, worker: PretendWorker) -> Reporting:
    """The worker's reports."""
    made = Reporting(lifecycle, worker.name, PRIORITIES, lambda: 0.0)
    made.ready(NOTHING_READ)
    return made


@pytest.fixture
def desk(lifecycle: Lifecycle, worker: PretendWorker, reporting: Reporting) -> Desk:
    """The worker's desk."""
    return Desk(lifecycle, worker.holding, reporting, lambda _: None, WORST_CASE, lambda: 0.0)


def test_a_job_is_counted_from_its_claim_to_its_end(
    connection: Redis,
    lifecycle: Lifecycle,
    submit: Submit,
    worker: PretendWorker,
    desk: Desk,
    reporting: Reporting,
) -> None:
    """Its wait once, its first token once, its tokens by model, its memory, its end; and the next report says so."""
    rec = submit()
    held = desk.take(worker.claim(rec.id))
    key = key_of(held)
    desk.note_progress({"computed": {key: 6}, "reused": {key: 4}})
    desk.note_progress({"computed": {key: 9}})
    at = held.rec.created_at + 0.3
    for tokens in ([1], [2, 3]):
        steps = [{"key": key, "at": at, "tokens": tokens, "text": "x"}]
        desk.write(progress_of(desk, steps))
        at += 100
    held.rec = replace(held.rec, meta=replace(held.rec.meta, footprint_ratio=1.5))
    desk.put_back(held, Reason.MEMORY)
    again = desk.take(worker.claim(rec.id))
    result = {"text": "xx", "finish_reason": "stop", "usage": {}}
    steps = [{"key": key_of(again), "at": at, "tokens": [4], "text": "x", "result": result}]
    desk.write(progress_of(desk, steps))
    reporting.report(
        "ready",
        Ledger(1 << 30, 64, 1),
        (),
        active_bytes=0,
        tokens_per_second=0.0,
        work_tokens_per_second=0.0,
        served=(MODEL,),
        left=lambda _: 0,
        starts_at={},
    )
    (said,) = live_workers(connection)
    told = Tally.read(said.measures, {MODEL})
    assert told.spreads.keys() == lifecycle.tally.spreads.keys()
    del lifecycle.tally.counts["submissions"]
    assert told.counts == lifecycle.tally.counts
    priority = rec.meta.priority
    assert told.counts == {
        "claims": {(priority,): 2},
        "prompt_tokens": {(MODEL,): 5},
        "prompt_tokens_cached": {(MODEL,): 4},
        "completion_tokens": {(MODEL,): 4},
        "requeues": {(priority, "memory"): 1},
        "sheds": {(priority,): 1},
        "jobs_ended": {("completed", "none"): 1},
    }
    assert sum(told.spreads["wait_seconds"][priority,].counts) == 1
    first = told.spreads["time_to_first_token_seconds"][priority,]
    assert (first.total, sum(first.counts)) == (pytest.approx(0.3, abs=0.01), 1)


@pytest.mark.parametrize(
    ("fault", "company", "laid"),
    [
        (Fault.OUT_OF_MEMORY, 1, Laid.THE_JOB),
        (Fault.OUT_OF_MEMORY, 2, Laid.COMPANY),
        (Fault.VICTIM, 2, Laid.OTHERS),
        (Fault.VICTIM, 1, Laid.OTHERS),
    ],
)
def test_a_fault_is_counted_once_and_once_for_each_of_its_jobs(
    lifecycle: Lifecycle,
    submit: Submit,
    worker: PretendWorker,
    desk: Desk,
    fault: Fault,
    company: int,
    laid: Laid,
) -> None:
    """By class, and by whom it is laid to."""
    held = [desk.take(worker.claim(submit().id)) for _ in range(company)]
    desk.judge(held, Failure(fault, died=False, company=company))
    counts = lifecycle.tally.counts
    assert counts["faults"] == {(fault.value,): 1}
    assert counts["attempts_failed"] == {(held[0].rec.meta.priority, fault.value, laid.value): company}
    assert counts["requeues"] == {(held[0].rec.meta.priority, fault.value): company}


def test_a_job_that_fails_is_counted_by_its_code(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, desk: Desk
) -> None:
    """And with what it was told of coming again."""
    rec = submit(max_attempts=1)
    desk.judge([desk.take(worker.claim(rec.id))], Failure(Fault.OUT_OF_MEMORY, died=False, company=1))
    tally = lifecycle.tally
    assert tally.counts["jobs_ended"] == {("failed", "insufficient_memory"): 1}
    told = tally.spreads["retry_after_told_seconds"]["insufficient_memory",]
    assert lifecycle.get(rec.id).state is State.FAILED and told.total >= 1


def test_what_waits_and_ends_is_counted_where_it_ends(lifecycle: Lifecycle, connection: Redis) -> None:
    """Cancelled by its client; the submission too."""
    rec = lifecycle.submit(read_request({"model": MODEL, "prompt": "a"}))
    lifecycle.cancel(rec.id)
    lifecycle.cancel(rec.id)
    assert lifecycle.tally.counts == {
        "submissions": {("standard",): 1},
        "jobs_ended": {("cancelled", "none"): 1},
    }
