"""Workers that fell silent: their jobs go on elsewhere, once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from scheduler import fleet
from scheduler.holding import Progress
from scheduler.job import PRIORITIES, State
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.recovery import recover
from scheduler.strays import mend
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, nothing_waits, rq_view, snapshot


def silence(worker: PretendWorker) -> None:
    """A worker's lease lapses."""
    worker.connection.delete(fleet.worker_key(worker.name))


def started(connection: Redis) -> StartedJobRegistry:
    """RQ's registry of running jobs."""
    return StartedJobRegistry("standard", connection, serializer=JSONSerializer)


def test_a_silent_workers_jobs_wait_again(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """At the front, with what they said; the living worker's job is left alone."""
    lost, kept, behind = submit(), submit(), submit()
    held = worker.claim(lost.id)
    worker.say(held, "so far")
    other.claim(kept.id)
    silence(worker)
    assert recover(queue, PRIORITIES, "a third", set()) == [lost.id]
    assert queue.rq_queue("standard").job_ids == [lost.id, behind.id]
    assert started(connection).get_job_ids(cleanup=False) == [kept.id]
    rec = queue.fetch(lost.id)
    assert (rec.state, rec.wire_state, rec.lease) == (State.QUEUED, State.IN_PROGRESS, None)
    again = other.claim(lost.id)
    assert (again.lease.attempt, again.tokens) == (2, [1])
    assert kinds(connection, lost.id) == ["queued", "started", "delta", "requeued", "started"]


def test_the_silent_workers_late_words_are_lost(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """It was only slow: what it says after it was given up changes nothing."""
    held = worker.claim(submit().id)
    silence(worker)
    recover(queue, PRIORITIES, "two", set())
    before = snapshot(connection)
    with pytest.raises(AssertionError):
        worker.complete(held, "late")
    assert snapshot(connection) == before


def test_a_worker_takes_up_what_it_does_not_know_of(
    queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """A claim whose answer was lost is its own job without a holder: put back, though the worker lives."""
    known, unknown = submit(), submit()
    worker.claim(known.id)
    worker.claim(unknown.id)
    assert recover(queue, PRIORITIES, "one", {f"{known.id} one/1"}) == [unknown.id]
    assert recover(queue, PRIORITIES, "one", {f"{known.id} one/1"}) == []


def test_an_earlier_attempt_is_not_the_one_it_knows(
    queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """What a worker holds is named by job and attempt."""
    held = worker.claim(submit().id)
    assert recover(queue, PRIORITIES, "one", {f"{held.rec.id} one/2"}) == [held.rec.id]


def test_several_that_recover_do_it_once(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Six at once: each job is put back by one of them, and stands in its queue once."""
    jobs = [submit().id for _ in range(12)]
    for job in jobs:
        worker.claim(job)
    silence(worker)
    start = threading.Barrier(6)

    def race(number: int) -> list[str]:
        start.wait(10)
        return recover(queue, PRIORITIES, f"w{number}", set())

    with ThreadPoolExecutor(6) as pool:
        put_back = [job for mine in pool.map(race, range(6)) for job in mine]
    assert sorted(put_back) == jobs
    assert sorted(queue.rq_queue("standard").job_ids) == jobs
    assert {tuple(kinds(connection, job)) for job in jobs} == {("queued", "started", "requeued")}
    assert queue.waiting()[0] == 12


def test_a_job_without_output_waits_on_the_wire_too(
    queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Only what a client was sent output of stays *in progress*, however often it was put back."""
    held = worker.claim(submit().id)
    for _ in range(3):
        worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
        held = worker.claim(held.rec.id)
    silence(worker)
    recover(queue, PRIORITIES, "two", set())
    assert queue.fetch(held.rec.id).wire_state is State.QUEUED


def test_nothing_to_recover_is_nothing(queue: JobQueue, submit: Submit) -> None:
    """Without running jobs, and for queues that nobody uses."""
    submit()
    assert recover(queue, [*PRIORITIES, "unheard of"], "one", set()) == []


def abandon(connection: Redis, worker: PretendWorker) -> None:
    """RQ's own cleaning, as a plain ``rq worker`` does it, after the executions' time is up."""
    silence(worker)
    started(connection).cleanup(time.time() + 1e6)


def test_rqs_own_recovery_puts_back_instead_of_failing(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """Should it come first: the job waits at the front, and its next attempt goes on where it was."""
    lost, behind = submit(), submit()
    worker.say(worker.claim(lost.id), "so far")
    abandon(connection, worker)
    assert rq_view(connection, lost.id).get_status() is JobStatus.QUEUED
    assert FailedJobRegistry("standard", connection, serializer=JSONSerializer).get_job_ids() == []
    assert queue.rq_queue("standard").job_ids == [lost.id, behind.id]
    again = other.claim()
    assert (again.rec.id, again.lease.attempt, again.tokens) == (lost.id, 2, [1])
    other.complete(again, "so far, so good")
    other.complete(other.claim(behind.id), "a")
    assert queue.fetch(lost.id).state is State.COMPLETED
    mend(queue)
    assert nothing_waits(queue)


@pytest.mark.parametrize("late", ["text", "end", "shedding"])
def test_a_worker_that_rq_gave_up_holds_nothing(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker, late: str
) -> None:
    """It was only slow: its late words neither end a job that waits, nor queue it twice."""
    held = worker.claim(submit().id)
    abandon(connection, worker)
    before = snapshot(connection)
    if late == "shedding":
        lost = worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    else:
        outcome = Outcome(State.COMPLETED, {"text": "late"}) if late == "end" else None
        lost = worker.holding.write([Progress(held, {"text": "late"}, outcome)])
    assert lost == [held]
    assert snapshot(connection) == before
    other.complete(other.claim(held.rec.id), "a")
    assert queue.rq_queue("standard").job_ids == []
    mend(queue)
    assert nothing_waits(queue)
