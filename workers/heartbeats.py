"""What RQ's monitor writes for its one horse, for every running job: and only for those that are still held.

RQ writes it whoever holds the job: of a worker that wakes up after its lease has lapsed, it would leave a record
of an attempt that is over.
"""

from __future__ import annotations

from collections.abc import Iterable

from redis.client import Pipeline
from rq.executions import Execution
from rq.utils import now

from scheduler.holding import Held
from scheduler.queue import JobQueue
from scheduler.swap import Swap, record


def beat(queue: JobQueue, jobs: Iterable[tuple[Held, Execution]], seconds: int) -> None:
    """Keep RQ's records of running jobs, in one round trip.

    Args:
        queue: the store.
        jobs: those in hand, each with RQ's record of its attempt.
        seconds: how long RQ takes an attempt for alive without another word.

    Raises:
        StoreUnavailable: the server is away; the next beat says the same.
    """
    queue.swap(*(_beat(queue, held, execution, seconds) for held, execution in jobs))


def _beat(queue: JobQueue, held: Held, execution: Execution, seconds: int) -> Swap:
    job = queue.rq_job(held.rec)

    def write(pipe: Pipeline) -> None:
        execution.heartbeat(job.started_job_registry, seconds, pipeline=pipe)
        job.heartbeat(now(), seconds, pipeline=pipe, xx=True)

    still_held = queue.append(held.rec, None)
    return Swap((), record(queue.connection, write)).beside(still_held)
