"""Mending what other hands left: RQ's tools and plain workers, killed or told to.

Jobs that RQ's lists hold and that ended, jobs between RQ's lists, jobs started by nobody, entries of
indexes whose jobs are gone. Everything is guarded by what was read, so two that mend at once do it once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus

from scheduler.errors import ClientError
from scheduler.events import events_key
from scheduler.job import JOB_ID, PRIORITIES, State
from scheduler.queue import JOBS_KEY, JobQueue
from scheduler.swap import Guard, Swap
from scheduler.waiting import reconcile

_PAGE: Final = 1000
_BETWEEN_SECONDS: Final = 60.0  # what RQ gives a worker between its two lists


def mend(queue: JobQueue, names: Sequence[str] = PRIORITIES) -> None:
    """Mend everything once."""
    for name in names:
        each = queue.rq_queue(name)
        _drop_ended(queue, each)
        _take_from_between(queue, each)
        _give_back_started(queue, each)
        canceled = each.canceled_job_registry.key  # RQ never cleans this one
        for gone in _gone(queue.connection, canceled):
            queue.connection.zrem(canceled, *gone)
    reconcile(queue.connection, queue.swap)
    for gone in _gone(queue.connection, JOBS_KEY):
        queue.connection.delete(*(events_key(job_id) for job_id in gone))
        queue.connection.zrem(JOBS_KEY, *gone)


def _drop_ended(queue: JobQueue, each: Queue) -> None:
    """Take jobs that ended or are gone out of a list, where they would stand in others' way."""
    entries: Any = queue.connection.lrange(each.key, 0, _PAGE - 1)
    ids = [job_id for job_id in map(bytes.decode, entries) if JOB_ID.fullmatch(job_id)]
    for job_id, status in zip(ids, _statuses(queue.connection, ids), strict=True):
        if status != JobStatus.QUEUED.value.encode():
            as_read = Guard(("HGET", Job.key_for(job_id), "status"), status or "")
            queue.swap(Swap((as_read,), (("LREM", each.key, 0, job_id),)))


def _take_from_between(queue: JobQueue, each: Queue) -> None:
    """Put back jobs whose plain worker died between RQ's two lists; RQ would fail them."""
    between = each.intermediate_queue
    for job_id in filter(JOB_ID.fullmatch, between.get_job_ids()):
        seen = between.get_first_seen(job_id)
        if seen is None:
            between.set_first_seen(job_id)
        elif time.time() - seen.timestamp() > _BETWEEN_SECONDS:
            guards = (
                Guard(("HGET", Job.key_for(job_id), "status"), JobStatus.QUEUED.value),
                Guard(("LREM", between.key, 1, job_id), 1),
            )
            back = (("LREM", each.key, 0, job_id), ("LPUSH", each.key, job_id))
            queue.swap(Swap(guards, (*back, ("DEL", between.get_first_seen_key(job_id)))))


def _give_back_started(queue: JobQueue, each: Queue) -> None:
    """Put back jobs that a plain worker started and did not live to run."""
    registry = each.started_job_registry
    entries: Any = queue.connection.zrangebyscore(registry.key, 0, time.time())
    for entry in entries:
        try:
            rec = queue.fetch(entry.decode().split(":")[0])
        except ClientError:
            continue  # it is RQ's to clean
        if rec.lease is None and rec.state is State.IN_PROGRESS and queue.give_back(rec):
            queue.connection.zrem(registry.key, entry)


def _gone(connection: Redis, index: str) -> Iterator[list[str]]:
    """The entries of a sorted set of jobs whose jobs are not there any more, page by page."""
    start = 0
    while True:
        entries: Any = connection.zrange(index, start, start + _PAGE - 1)
        ids = [entry.decode() for entry in entries]
        gone = [job for job, status in zip(ids, _statuses(connection, ids), strict=True) if status is None]
        if gone:
            yield gone
        if len(ids) < _PAGE:
            return
        start += _PAGE - len(gone)


def _statuses(connection: Redis, job_ids: Sequence[str]) -> list[bytes | None]:
    pipeline = connection.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.hget(Job.key_for(job_id), "status")
    return list(pipeline.execute()) if job_ids else []
