"""Deleting a job: everything that the server keeps of it goes in one step, and whoever follows it is told."""

from __future__ import annotations

from redis import Redis
from rq.job import Job
from rq.results import Result

from scheduler.events import Kind, LoggedEvent, events_key, publish_command
from scheduler.job import State
from scheduler.queue import JOBS_KEY, JobQueue
from scheduler.record import LEASE_FIELD, JobRecord
from scheduler.rq_records import end_execution
from scheduler.swap import Guard, Swap, Word, record
from scheduler.webhooks import forget_commands


def deletion_swap(queue: JobQueue, rec: JobRecord) -> Swap:
    """The swap that deletes a job, where nothing moved it since it was read.

    A worker that holds it learns of it at its next write, as if it had lost the job to another. What the indexes of
    waiting jobs keep of one that waits is left to :func:`scheduler.tidying.reconcile`: cancel it first.
    """
    job, each = queue.rq_job(rec), queue.rq_queue(rec.meta.priority)
    registries = (each.finished_job_registry, each.failed_job_registry, each.canceled_job_registry)
    as_read = b"\n".join((rec.stored_meta or b"", (rec.lease or "").encode()))
    waits: tuple[tuple[Word, ...], ...] = (("LREM", each.key, 0, rec.id),)
    return Swap(
        (Guard(("HMGET", job.key, "meta", LEASE_FIELD), as_read, "words"),),
        (
            *record(queue.connection, lambda pipe: end_execution(rec, job, pipe)),
            *(("ZREM", registry.key, rec.id) for registry in registries),
            *(waits if rec.state is State.QUEUED else ()),
            ("ZREM", JOBS_KEY, rec.id),
            *forget_commands([job.key]),
            ("DEL", *_keys(queue.connection, rec.id)),
            publish_command([(rec.id, LoggedEvent(0, Kind.DELETED))]),
        ),
    )


def _keys(connection: Redis, job_id: str) -> tuple[str, ...]:
    """The keys that are a job's alone, ours and RQ's."""
    job = Job(id=job_id, connection=connection)
    executions = f"rq:executions:{job_id}"
    relations = (job.dependents_key, job.dependencies_key)
    return (job.key, Result.get_key(job_id), executions, events_key(job_id), *relations)
