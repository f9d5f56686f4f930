"""Mending what other hands left: RQ's tools and plain workers, killed or told to.

Jobs that RQ's lists hold and that ended, jobs between RQ's lists, jobs started by nobody, jobs that RQ's
tools ended without a word to their clients, entries of indexes whose jobs are gone. Everything is guarded
by what was read, so two that mend at once do it once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus

from scheduler.errors import ClientError
from scheduler.events import Kind, LoggedEvent, events_key, last_number, publish_command
from scheduler.job import JOB_ID, PRIORITIES, State
from scheduler.queue import JOBS_KEY, JobQueue
from scheduler.record import Outcome
from scheduler.rq_records import end_execution
from scheduler.swap import Guard, Swap, record
from scheduler.tidying import reconcile

_PAGE: Final = 1000
_BETWEEN_SECONDS: Final = 60.0  # what RQ gives a worker between its two lists
_ENDED: Final = {
    status.value.encode()
    for status in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)
}


def mend(queue: JobQueue, names: Sequence[str] = PRIORITIES) -> None:
    """Mend everything once."""
    for name in names:
        each = queue.rq_queue(name)
        _drop_ended(queue, each)
        _take_from_between(queue, each)
        _give_back_started(queue, each)
        canceled = each.canceled_job_registry.key  # RQ never cleans this one
        for page in _pages(queue.connection, canceled):
            if gone := _gone(page):
                queue.connection.zrem(canceled, *gone)
    reconcile(queue.connection, queue.swap)
    for page in _pages(queue.connection, JOBS_KEY):
        if gone := _gone(page):
            queue.connection.delete(*(events_key(job_id) for job_id in gone))
            queue.connection.zrem(JOBS_KEY, *gone)
        for job_id in _without_end(queue.connection, page):
            settle(queue, job_id)


def settle(queue: JobQueue, job_id: str) -> None:
    """Give a job that others ended the outcome, the last event and the expiries of one that a verb ended."""
    status: Any = queue.connection.hget(Job.key_for(job_id), "status")
    try:
        rec = queue.fetch(job_id)
    except ClientError:
        return
    if status not in _ENDED or rec.outcome is not None:
        return
    outcome = Outcome(State.CANCELLED)
    if rec.state is not State.CANCELLED:
        error = ClientError("internal_error", f"the job was ended as {status.decode()} from outside")
        outcome = Outcome(State.FAILED, error=error.body())
    event = LoggedEvent(last_number(queue.connection, job_id) + 1, Kind(outcome.state.value))
    # As if it were still held: RQ's word for its end stays what others made it.
    lease = rec.lease if status == JobStatus.STOPPED.value.encode() else None
    held = replace(rec, state=State.IN_PROGRESS, lease=lease)
    swap = queue.finish(held, outcome, [event], time.time())
    as_read = (
        Guard(("HGET", Job.key_for(job_id), "status"), status),
        Guard(("HGET", Job.key_for(job_id), "meta"), rec.stored_meta or ""),
    )
    let_go = record(queue.connection, lambda pipe: end_execution(rec, queue.rq_job(rec), pipe))
    told = publish_command([(job_id, event)])
    queue.swap(replace(swap, guards=as_read, commands=(*swap.commands, *let_go, told)))


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


def _pages(connection: Redis, index: str) -> Iterator[dict[str, bytes | None]]:
    """The jobs of a sorted set, page by page, with their statuses; those that are gone are to be removed."""
    start = 0
    while True:
        entries: Any = connection.zrange(index, start, start + _PAGE - 1)
        ids = [entry.decode() for entry in entries]
        page = dict(zip(ids, _statuses(connection, ids), strict=True))
        yield page
        if len(ids) < _PAGE:
            return
        start += _PAGE - len(_gone(page))


def _gone(page: dict[str, bytes | None]) -> list[str]:
    return [job_id for job_id, status in page.items() if status is None]


def _without_end(connection: Redis, page: dict[str, bytes | None]) -> list[str]:
    """Those that ended and whose logs do not lapse: a log lapses from its last event on."""
    ended = [job_id for job_id, status in page.items() if status in _ENDED]
    pipeline = connection.pipeline(transaction=False)
    for job_id in ended:
        pipeline.ttl(events_key(job_id))
    lasting = pipeline.execute() if ended else []
    return [job_id for job_id, seconds in zip(ended, lasting, strict=True) if seconds == -1]


def _statuses(connection: Redis, job_ids: Sequence[str]) -> list[bytes | None]:
    pipeline = connection.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.hget(Job.key_for(job_id), "status")
    return list(pipeline.execute()) if job_ids else []
