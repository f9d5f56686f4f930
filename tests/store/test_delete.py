"""Deleting jobs: nothing of them is left, whatever they were doing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis

from scheduler.deletion import deletion_swap
from scheduler.errors import ClientError
from scheduler.events import Kind
from scheduler.job import PRIORITIES, State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue, inbox_channel
from scheduler.reasons import Reason
from scheduler.strays import mend
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, nothing_waits, told


def traces(connection: Redis, job_id: str) -> list[str]:
    """Every key that is the job's, or has it among its members."""
    readers: dict[bytes, Callable[[bytes], object]] = {
        b"zset": lambda key: connection.zrange(key, 0, -1),
        b"list": lambda key: connection.lrange(key, 0, -1),
        b"set": connection.smembers,
        b"hash": connection.hgetall,
        b"string": connection.get,
        b"stream": connection.xrange,
    }
    keys = list(connection.scan_iter())
    whole = {key: (key, readers[connection.type(key)](key)) for key in keys}
    return sorted(key.decode() for key, held in whole.items() if job_id in repr(held))


@pytest.mark.parametrize("end", [State.COMPLETED, State.INCOMPLETE, State.FAILED, State.CANCELLED])
@pytest.mark.parametrize("priority", PRIORITIES)
def test_of_an_ended_job_nothing_is_left(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, end: State, priority: str
) -> None:
    """Neither its hash, log, result and executions, nor its place in any registry or list."""
    rec = submit(priority=priority)
    held = worker.claim(rec.id)
    worker.say(held, "hi")
    worker.end(held, Outcome(end, {"text": "hi"}))
    assert traces(connection, rec.id)
    lifecycle.delete(rec.id)
    assert traces(connection, rec.id) == []
    for verb in (lifecycle.get, lifecycle.delete, lifecycle.cancel):
        with pytest.raises(ClientError) as caught:
            verb(rec.id)
        assert caught.value.code == "not_found"


def test_a_waiting_job_is_cancelled_and_gone(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Its place in every index too; who waits behind it moves up, and nothing claims it."""
    rec, behind = submit(queue_timeout=50), submit()
    news = told(connection, lambda: lifecycle.delete(rec.id))
    assert [(job, kind) for job, _, kind in news] == [(rec.id, Kind.CANCELLED), (rec.id, Kind.DELETED)]
    assert traces(connection, rec.id) == []
    assert lifecycle.queue.standing(lifecycle.get(behind.id)).position == 1
    assert worker.claim().rec.id == behind.id
    assert nothing_waits(lifecycle.queue)


def test_a_worker_that_runs_a_deleted_job_hears_of_it_and_lets_go(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """It is asked to stop; what it writes then changes nothing and brings no key back."""
    held = worker.claim(submit().id)
    with connection.pubsub(ignore_subscribe_messages=True) as inbox:
        inbox.subscribe(inbox_channel("one"))
        inbox.get_message(timeout=5)
        lifecycle.delete(held.rec.id)
        message = inbox.get_message(timeout=5)
    assert message is not None
    assert message["data"] == held.rec.id.encode()
    assert worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held]) == [held]
    with pytest.raises(AssertionError):
        worker.complete(held, "hi")
    assert traces(connection, held.rec.id) == []
    mend(lifecycle.queue)


def test_a_job_that_moved_is_looked_at_again(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, queue: JobQueue
) -> None:
    """Read while it ran, put back meanwhile: as it was read it is not deleted; deleted it is all the same."""
    held = worker.claim(submit().id)
    seen = queue.fetch(held.rec.id)
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    assert queue.swap(deletion_swap(queue, seen)) != [1]
    assert kinds(connection, seen.id) == ["queued", "started", "requeued"]
    lifecycle.delete(seen.id)
    assert traces(connection, seen.id) == []
    assert nothing_waits(queue)


def test_a_job_that_others_put_aside_is_deleted_too(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, queue: JobQueue
) -> None:
    """Where it waits in no list, no cancellation finds it; what the indexes have of it is tidied."""
    rec = submit()
    connection.lrem("rq:queue:standard", 0, rec.id)
    lifecycle.delete(rec.id)
    mend(queue)
    assert traces(connection, rec.id) == []
    assert nothing_waits(queue)


def test_others_jobs_stay(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Waiting, running and ended ones."""
    waits, runs, ended, gone = (submit() for _ in range(4))
    held = worker.claim(runs.id)
    worker.complete(worker.claim(ended.id), "hi")
    before = {rec.id: traces(connection, rec.id) for rec in (waits, runs, ended)}
    lifecycle.delete(gone.id)
    assert {job_id: traces(connection, job_id) for job_id in before} == before
    worker.complete(held, "hi")
