"""Rules that once did not hold: jobs left between others' hands, and heads of queues that block."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from scheduler.footprint import alone_bytes
from scheduler.holding import Progress
from scheduler.job import PRIORITIES, State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.queue import JobQueue
from scheduler.recovery import recover
from scheduler.request import read_request
from scheduler.settings import load
from scheduler.strays import mend
from tests.conftest import MODEL
from tests.plans import WORST_CASE
from tests.pretend_worker import CARD, PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, rq_view, snapshot, told
from tests.store.test_other_hands import claiming, plain_dequeue
from tests.waiting import Clock
from workers.claiming import Claiming
from workers.residency import Residency


def mend_all(queue: JobQueue, worker: PretendWorker) -> None:
    """Everything that a live worker does about jobs that others left lying, for a long time."""
    for _ in range(2):
        recover(queue, PRIORITIES, worker.name, set())
        mend(queue)


def test_a_job_goes_on_whose_plain_worker_died_before_it_started_it(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Between RQ's two lists: queued by its status, in no queue (rule 3)."""
    rec = submit()
    Queue.dequeue_any(
        [Queue("standard", connection=connection, serializer=JSONSerializer)],
        None,
        connection=connection,
        serializer=JSONSerializer,
    )
    try:
        seen = Queue("standard", connection=connection).intermediate_queue.get_first_seen_key(rec.id)
        connection.set(seen, 1)  # long ago
        mend_all(queue, worker)
        assert worker.try_claim(rec.id) is not None
    finally:
        connection.delete("rq:queue:standard:intermediate", seen)


def test_a_job_goes_on_whose_plain_worker_died_before_it_gave_it_back(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Started by RQ's word, held by nobody, its execution long lapsed (rules 2 and 3)."""
    rec = submit()
    plain_dequeue(connection)
    registry = StartedJobRegistry("standard", connection, serializer=JSONSerializer)
    connection.zadd(registry.key, {f"{rec.id}:gone": 1})
    mend(queue)
    mend_all(queue, worker)
    assert queue.fetch(rec.id).state is State.QUEUED
    assert worker.try_claim(rec.id) is not None


@pytest.mark.parametrize("status", ["canceled", "stopped", "failed", "finished"])
def test_a_running_job_that_others_ended_has_an_end(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, status: str
) -> None:
    """Ended by RQ's own verb, or its word alone: mending gives it one outcome and one last event, told to
    readers; all of it lapses; its worker lost it; RQ's word stays, and mending again changes nothing (rules 3
    and 7).
    """
    held = worker.claim(submit().id)
    worker.say(held, "one ")
    if status == "canceled":
        rq_view(connection, held.rec.id).cancel()
    else:
        connection.hset(Job.key_for(held.rec.id), "status", status)
    news = told(connection, lambda: mend(queue))
    rec = queue.fetch(held.rec.id)
    ours, rqs = ("cancelled", status) if status in {"canceled", "stopped"} else ("failed", "failed")
    assert rec.outcome is not None
    assert (rec.state.value, rec.outcome.state.value, rec.lease) == (ours, ours, None)
    assert rq_view(connection, rec.id).get_status() == rqs
    assert kinds(connection, rec.id) == ["queued", "started", "delta", ours]
    assert [(job_id, number) for job_id, number, _ in news] == [(rec.id, 4)]
    for key in (Job.key_for(rec.id), f"tidegate:events:{rec.id}", f"rq:results:{rec.id}"):
        assert connection.ttl(key) > 0, key
    assert connection.zcard("rq:wip:standard") == 0
    assert worker.holding.write([Progress(held, {"text": "late", "tokens": [2]})]) == [held]
    before = snapshot(connection)
    mend(queue)
    assert snapshot(connection) == before


def test_jobs_that_nobody_here_may_claim_do_not_block_the_queue(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """As many of a later version as a claim looks at stand before one of ours."""
    for _ in range(lifecycle.settings.claim_lookahead):
        job = Job.fetch(submit().id, connection=connection, serializer=JSONSerializer)
        job.kwargs = {**job.kwargs, "version": 2}
        job.save()
    submit()
    claims, ledger = claiming(lifecycle, worker)
    assert claims.claim(ledger, None) is not None


def test_an_idle_model_does_not_keep_a_job_out(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Nothing runs; beside an idle model's weights the job does not fit, without them it does (rule 5)."""
    rec = submit()
    other = replace(CARD, model="other")
    ledger = Ledger(alone_bytes(CARD, rec.row, 512) + other.weights_bytes // 2, 512, 4)
    ledger.admit_model(other)
    ledger.admit_model(CARD)
    residency = Residency({MODEL: "nowhere", "other": "nowhere"}, lambda _: None)
    claims = Claiming(lifecycle, worker.holding, PRIORITIES, lifecycle._clock, residency, WORST_CASE)
    for _ in range(3):
        if claims.claim(ledger, None) is not None:
            return
        claims.load_wanted(ledger)
    pytest.fail("idle, and the job waits")


def test_an_empty_queue_takes_any_job(connection: Redis, valkey_url: str, clock: Clock) -> None:
    """A job larger than the bound is told to come back later, for ever: no guard may latch."""
    few = load(redis_url=valkey_url, models=(MODEL,), max_queued_tokens=10)
    Lifecycle(connection, few, clock).submit(read_request({"model": MODEL, "prompt": "hi", "max_tokens": 20}))
