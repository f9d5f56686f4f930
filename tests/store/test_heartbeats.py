"""RQ's records of running attempts: kept alive by who holds the job, and by nobody else."""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq.executions import Execution

from scheduler.holding import Held
from scheduler.job import PRIORITIES
from scheduler.queue import JobQueue
from scheduler.recovery import recover
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import snapshot
from workers.heartbeats import beat


def execution_of(held: Held, worker: PretendWorker) -> Execution:
    """RQ's record of the attempt."""
    return Execution(str(held.rec.meta.execution_id), held.rec.id, worker.connection, worker.name)


def test_a_beat_keeps_the_records_of_a_held_job(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Its execution, and its places in RQ's registries, live on for as long as was said."""
    held = worker.claim(submit().id)
    execution = execution_of(held, worker)
    connection.expire(execution.key, 5)
    before: Any = connection.zscore("rq:wip:standard", execution.composite_key)
    beat(queue, [(held, execution)], 500)
    assert 490 < connection.ttl(execution.key) <= 500
    after: Any = connection.zscore("rq:wip:standard", execution.composite_key)
    assert after > before + 300
    worker.complete(held, "done")


def test_a_worker_that_lost_a_job_writes_no_record_of_it(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """As one that was stopped for longer than its lease, and wakes up: the beat of its attempt, which is over, writes
    nothing, whether the job waits, is another's or has ended; that of a job it holds beside it does (rule 2).
    """
    lost, kept = (worker.claim(submit().id) for _ in range(2))
    late, mine = execution_of(lost, worker), execution_of(kept, worker)
    connection.delete("tidegate:worker:one")
    assert recover(queue, PRIORITIES, other.name, {f"{kept.rec.id} {kept.rec.lease}"}) == [
        lost.rec.id,
        kept.rec.id,
    ]
    waiting = snapshot(connection)
    beat(queue, [(lost, late)], 500)
    assert snapshot(connection) == waiting
    again, kept = other.claim(lost.rec.id), worker.claim(kept.rec.id)
    mine = execution_of(kept, worker)
    beat(queue, [(lost, late), (kept, mine)], 500)
    assert not connection.exists(late.key)
    assert connection.ttl(mine.key) > 400
    other.complete(again, "done")
    worker.complete(kept, "done")
    ended = snapshot(connection)
    beat(queue, [(lost, late), (kept, mine)], 500)
    assert snapshot(connection) == ended
