"""Cancelling and timing out."""

from __future__ import annotations

import pytest
from redis import Redis

from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue, inbox_channel
from scheduler.reasons import Reason
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, nothing_waits, snapshot, told
from tests.waiting import Clock


def test_a_waiting_job_is_cancelled_at_once(
    connection: Redis, lifecycle: Lifecycle, queue: JobQueue, submit: Submit
) -> None:
    """It leaves its queue, its place in every index, and says so once."""
    rec = submit(queue_timeout=5)
    news = told(connection, lambda: lifecycle.cancel(rec.id))
    assert [(job, number, kind.value) for job, number, kind in news] == [(rec.id, 2, "cancelled")]
    assert kinds(connection, rec.id) == ["queued", "cancelled"]
    assert queue.rq_queue("standard").job_ids == []
    assert nothing_waits(queue)


def test_a_running_job_is_asked_of_its_worker(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """A mark in the job, and a word in its worker's inbox; it goes on until the worker ends it."""
    held = worker.claim(submit().id)
    with connection.pubsub(ignore_subscribe_messages=True) as inbox:
        inbox.subscribe(inbox_channel("one"), inbox_channel("two"))
        inbox.get_message(timeout=5)
        inbox.get_message(timeout=5)
        rec = lifecycle.cancel(held.rec.id)
        message = inbox.get_message(timeout=5)
    assert message is not None
    assert (message["channel"], message["data"]) == (inbox_channel("one").encode(), held.rec.id.encode())
    assert (rec.state, rec.cancel_requested) == (State.IN_PROGRESS, True)
    assert worker.holding.cancel_wanted([held]) == [held]
    worker.end(held, Outcome(State.CANCELLED))
    assert lifecycle.get(held.rec.id).state is State.CANCELLED
    assert worker.holding.cancel_wanted([]) == []


@pytest.mark.parametrize("state", [State.COMPLETED, State.INCOMPLETE, State.FAILED, State.CANCELLED])
def test_what_ended_stays_as_it_ended(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, state: State
) -> None:
    """Cancelling is idempotent, and changes no end."""
    held = worker.claim(submit().id)
    worker.end(held, Outcome(state))
    before = snapshot(connection)
    assert lifecycle.cancel(held.rec.id).state is state
    assert snapshot(connection) == before


def test_a_stale_view_asks_nobody(queue: JobQueue, submit: Submit, worker: PretendWorker) -> None:
    """Asked of an attempt that is over, a cancellation marks nothing: it has to look again."""
    held = worker.claim(submit().id)
    seen = queue.fetch(held.rec.id)
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    assert not queue.ask_cancel(seen)
    assert not queue.fetch(held.rec.id).cancel_requested


def test_a_job_shed_after_its_cancellation_is_cancelled_where_it_waits(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """The worker did not hear of it in time; asked again, the job ends though no worker comes."""
    held = worker.claim(submit().id)
    lifecycle.cancel(held.rec.id)
    worker.holding.send([worker.holding.put_back(held, Reason.WORKER_STOPPED)], [held])
    assert lifecycle.cancel(held.rec.id).state is State.CANCELLED
    assert kinds(connection, held.rec.id) == ["queued", "started", "requeued", "cancelled"]


@pytest.mark.parametrize("job_id", ["", "job_", "x" * 9999, "job_" + "0" * 26, "../" * 9, "job_\u0000", "é"])
def test_a_job_that_is_not_there_is_not_found(connection: Redis, lifecycle: Lifecycle, job_id: str) -> None:
    """404 in short words, whatever was asked for."""
    for verb in (lifecycle.get, lifecycle.cancel):
        with pytest.raises(ClientError) as caught:
            verb(job_id)
        assert caught.value.code == "not_found"
        assert len(caught.value.message) < 120
    assert connection.dbsize() == 0


def test_how_long_a_job_waited_is_told_as_it_was_asked(
    lifecycle: Lifecycle, submit: Submit, clock: Clock
) -> None:
    """Not as what two moments in binary are apart."""
    rec = submit(queue_timeout=0.001)
    clock.now = rec.created_at + 1
    assert lifecycle.end_overdue() == [rec.id]
    outcome = lifecycle.get(rec.id).outcome
    assert outcome is not None
    assert outcome.error is not None
    assert outcome.error["message"] == "the job had not started within 0.001 s"


def test_a_job_that_waited_too_long_ends(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, clock: Clock
) -> None:
    """At its ``queue_timeout`` it still waits, after it it has failed: 503, to be retried."""
    rec, patient = submit(queue_timeout=5), submit()
    clock.now = rec.created_at + 5
    assert lifecycle.end_overdue() == []
    clock.now += 0.001
    assert lifecycle.end_overdue() == [rec.id]
    assert lifecycle.end_overdue() == []
    ended = lifecycle.get(rec.id)
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert (ended.state, ended.outcome.error["code"]) == (State.FAILED, "queue_timeout")
    assert ended.outcome.error["message"] == "the job had not started within 5 s"
    assert kinds(connection, rec.id) == ["queued", "failed"]
    assert lifecycle.get(patient.id).state is State.QUEUED


def test_whoever_looks_at_an_overdue_job_sees_it_ended(
    lifecycle: Lifecycle, submit: Submit, clock: Clock
) -> None:
    """Without any worker, too."""
    rec = submit(queue_timeout=5)
    clock.now += 6
    assert lifecycle.get(rec.id).state is State.FAILED
    assert nothing_waits(lifecycle.queue)


def test_a_job_that_has_run_does_not_time_out_in_the_queue(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, clock: Clock
) -> None:
    """``queue_timeout`` is about the first start; shed, a job waits as long as it takes."""
    rec = submit(queue_timeout=5)
    held = worker.claim(rec.id)
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    clock.now += 6
    assert lifecycle.end_overdue() == []
    assert lifecycle.get(rec.id).state is State.QUEUED


def test_a_job_claimed_in_time_is_not_ended(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, clock: Clock
) -> None:
    """Seen overdue, claimed meanwhile: the claim stands."""
    rec = submit(queue_timeout=5)
    seen = lifecycle.get(rec.id)
    held = worker.claim(rec.id)
    clock.now += 6
    assert seen.overdue(clock.now)
    assert not lifecycle.end_waiting(seen, Outcome(State.FAILED))
    worker.complete(held, "in time")
    assert lifecycle.get(rec.id).state is State.COMPLETED
