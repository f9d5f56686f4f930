"""Claims: exactly once, whoever else is quick."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from rq.executions import Execution
from rq.job import JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from scheduler.job import TERMINAL, State
from scheduler.lifecycle import Lifecycle
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.waiting import PASSES_KEY
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, nothing_waits, rq_view, snapshot
from tests.store.test_other_hands import claiming

THREADS = 8


def test_a_claimed_job_is_rqs_started_job(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Status, worker, registry and execution are RQ's own; no list has it any more."""
    rec = submit()
    held = worker.claim()
    job = rq_view(connection, rec.id)
    assert (job.get_status(), job.worker_name) == (JobStatus.STARTED, "one")
    registry = StartedJobRegistry("standard", connection, serializer=JSONSerializer)
    assert registry.get_job_ids() == [rec.id]
    execution = Execution.fetch(str(held.rec.meta.execution_id), rec.id, connection)
    assert execution.worker_name == "one"
    assert queue.rq_queue("standard").job_ids == []
    assert nothing_waits(queue)
    read = queue.fetch(rec.id)
    assert (read.state, read.lease, read.meta.attempt) == (State.IN_PROGRESS, "one/1", 1)
    assert kinds(connection, rec.id) == ["queued", "started"]


def test_every_job_is_claimed_exactly_once(connection: Redis, queue: JobQueue, submit: Submit) -> None:
    """Eight workers race for sixty jobs."""
    jobs = {submit().id for _ in range(60)}
    start = threading.Barrier(THREADS)

    def race(number: int) -> list[str]:
        worker, mine, tries = PretendWorker(connection, f"w{number}"), list[str](), 0
        start.wait(10)
        while tries < 200 and queue.waiting()[0]:
            tries += 1
            held = worker.try_claim()
            if held is not None:
                assert held.rec.lease == f"w{number}/1"
                mine.append(held.rec.id)
        return mine

    with ThreadPoolExecutor(THREADS) as pool:
        claimed = [job for mine in pool.map(race, range(THREADS)) for job in mine]
    assert Counter(claimed) == Counter(jobs)
    assert nothing_waits(queue)
    assert {tuple(kinds(connection, job)) for job in jobs} == {("queued", "started")}


def test_a_lost_race_changes_nothing(
    connection: Redis, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """Both saw the job wait; the second gets None and leaves no trace."""
    rec = submit()
    waiting = worker.queue.fetch(rec.id)
    assert worker.holding.claim(waiting, waiting.meta, ()) is not None
    before = snapshot(connection)
    assert other.holding.claim(waiting, waiting.meta, ()) is None
    assert snapshot(connection) == before


def test_a_claim_of_what_has_moved_on_is_refused(
    connection: Redis, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """Seen waiting before an attempt that was shed since: it would repeat the attempt's number and its text."""
    rec = submit()
    seen = other.queue.fetch(rec.id)
    held = worker.claim(rec.id)
    worker.say(held, "so far")
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    before = snapshot(connection)
    assert other.holding.claim(seen, seen.meta, ()) is None
    assert snapshot(connection) == before
    again = other.claim(rec.id)
    assert (again.lease.attempt, again.tokens) == (2, [1])
    other.say(again, " and on")
    assert kinds(connection, rec.id) == ["queued", "started", "delta", "requeued", "started", "delta"]


def test_a_claim_or_a_cancellation_wins_never_both(
    connection: Redis, queue: JobQueue, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Raced forty times: cancelled while it waited, or claimed with its cancellation asked for."""
    for _ in range(40):
        rec = submit()
        start = threading.Barrier(2)
        with ThreadPoolExecutor(1) as pool:
            cancelled = pool.submit(lambda: (start.wait(10), lifecycle.cancel(rec.id))[1])  # noqa: B023
            start.wait(10)
            held = worker.try_claim(rec.id)
            after = cancelled.result(10)
        if held is None:
            assert after.state is State.CANCELLED
            assert kinds(connection, rec.id) == ["queued", "cancelled"]
        else:
            assert after.state is State.IN_PROGRESS
            assert worker.cancel_wanted(held)
            worker.complete(held, "done all the same")
            assert kinds(connection, rec.id) == ["queued", "started", "completed"]
        assert queue.fetch(rec.id).state in TERMINAL
        assert nothing_waits(queue)


def test_whom_a_claim_passes_is_counted(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """For those that wait; the count ends with the wait."""
    large, small = submit("large"), submit("small")
    rec = queue.fetch(small.id)
    assert worker.holding.claim(rec, rec.meta, (large.id,)) is not None
    assert [passes for _, passes in queue.heads(["standard"], 9)[0]] == [1]
    worker.claim(large.id)
    assert nothing_waits(queue)


def test_passing_a_job_that_went_meanwhile_leaves_no_trace(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """Another worker took the passed job, or its client cancelled it: nobody waits to be passed."""
    large, small = submit("large"), submit("small")
    rec = queue.fetch(small.id)
    other.claim(large.id)
    assert worker.holding.claim(rec, rec.meta, (large.id,)) is not None
    assert connection.hgetall(PASSES_KEY) == {}


def test_a_lost_race_passes_nobody(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """Passes are counted with the claim or not at all."""
    large, small = submit("large"), submit("small")
    rec = queue.fetch(small.id)
    other.claim(small.id)
    assert worker.holding.claim(rec, rec.meta, (large.id,)) is None
    assert connection.hgetall(PASSES_KEY) == {}


def test_a_worker_that_was_late_goes_on_with_what_still_waits(
    lifecycle: Lifecycle,
    submit: Submit,
    worker: PretendWorker,
    other: PretendWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others claimed three of those that it read: it takes the next, and neither looks anew nor tries each."""
    jobs = [submit().id for _ in range(6)]
    claims, ledger = claiming(lifecycle, worker)
    assert [held.rec.id for _ in range(1) if (held := claims.claim(ledger, None))] == jobs[:1]
    for job in jobs[1:4]:
        other.claim(job)
    tried: list[str] = []
    claim, looks = worker.holding.claim, list[object]()
    heads = lifecycle.queue.heads
    monkeypatch.setattr(lifecycle.queue, "heads", lambda *words: looks.append(words) or heads(*words))
    monkeypatch.setattr(worker.holding, "claim", lambda rec, *more: tried.append(rec.id) or claim(rec, *more))
    held = claims.claim(ledger, None)
    assert held is not None
    assert (held.rec.id, tried, looks) == (jobs[4], [jobs[1], jobs[4]], [])
