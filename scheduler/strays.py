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
from scheduler.outcome import Outcome
from scheduler.queue import JOBS_KEY, JobQueue
from scheduler.record import Meta
from scheduler.round_trip import replies_of
from scheduler.rq_records import end_execution
from scheduler.rq_status import RQ_STATUS
from scheduler.swap import Guard, Swap, record
from scheduler.tidying import reconcile
from scheduler.webhooks import Webhooks

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
        _end_again(queue, each)
        _take_from_between(queue, each)
        _give_back_started(queue, each)
        canceled = each.canceled_job_registry.key  # RQ never cleans this one
        for page in _pages(queue.connection, canceled):
            if gone := _gone(page):
                queue.connection.zrem(canceled, *map(_raw, gone))
    reconcile(queue.connection, queue.swap)
    Webhooks(queue.connection, queue.swap).tidy()
    for page in _pages(queue.connection, JOBS_KEY):
        if gone := _gone(page):
            queue.connection.delete(*(_raw(events_key(job_id)) for job_id in gone))
            queue.connection.zrem(JOBS_KEY, *map(_raw, gone))
        for job_id in _without_end(queue.connection, page):
            settle(queue, job_id)


def settle(queue: JobQueue, job_id: str) -> None:
    """Give a job that others ended the outcome, the last event and the expiries of one that a verb ended."""
    status = _statuses(queue.connection, [job_id])[0]
    try:
        rec = queue.fetch(job_id)
    except ClientError:
        return
    if status is None or status not in _ENDED or rec.outcome is not None:
        return
    outcome = Outcome(State.CANCELLED)
    if rec.state is not State.CANCELLED:
        error = ClientError("internal_error", f"the job was ended as {status.decode()} from outside")
        outcome = Outcome(State.FAILED, error=error.body())
    try:
        event = LoggedEvent(last_number(queue.connection, job_id) + 1, Kind(outcome.state.value))
    except ClientError:  # its key holds no log, and nobody could be told
        return
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
    ids = _job_ids(queue.connection, each.key, _PAGE - 1)
    for job_id, status in zip(ids, _statuses(queue.connection, ids), strict=True):
        if status != JobStatus.QUEUED.value.encode():
            as_read = Guard(("HGET", Job.key_for(job_id), "status"), status or "")
            queue.swap(Swap((as_read,), (("LREM", each.key, 0, job_id),)))


def _end_again(queue: JobQueue, each: Queue) -> None:
    """Take jobs out of a list that ended for their clients, and that RQ's tools requeued: they are among the failed again."""
    ids = _job_ids(queue.connection, each.key, _PAGE - 1)
    pipeline = queue.connection.pipeline(transaction=False)
    for job_id in ids:
        pipeline.hmget(Job.key_for(job_id), "status", "meta")
    for job_id, read in zip(ids, replies_of(pipeline) if ids else (), strict=True):
        status, meta = read or (b"", b"")  # nothing, where its key is of another type
        ended = _ended_as(meta) if meta and status == JobStatus.QUEUED.value.encode() else None
        if ended is None:
            continue
        key, kept = Job.key_for(job_id), queue.result_ttl
        swap = Swap(
            (Guard(("HMGET", key, "status", "meta"), f"{status.decode()}\n{meta.decode()}", "words"),),
            (
                ("LREM", each.key, 0, job_id),
                ("HSET", key, "status", RQ_STATUS[ended].value),
                ("EXPIRE", key, kept),
                ("ZADD", each.failed_job_registry.key, time.time() + kept, job_id),
            ),
        )
        queue.swap(swap)


def _ended_as(meta: bytes) -> State | None:
    try:
        ended = Meta.parse(meta).ended_as
        return State(ended) if ended else None
    except ValueError:
        return None


def _take_from_between(queue: JobQueue, each: Queue) -> None:
    """Put back jobs whose plain worker died between RQ's two lists; RQ would fail them."""
    between = each.intermediate_queue
    for job_id in _job_ids(queue.connection, between.key):  # RQ's own reading ends at a name that is no text
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
            rec = queue.fetch(entry.decode(errors="replace").split(":")[0])
        except ClientError:
            continue  # it is RQ's to clean
        if rec.lease is None and rec.state is State.IN_PROGRESS and queue.give_back(rec):
            queue.connection.zrem(registry.key, entry)


def _pages(connection: Redis, index: str) -> Iterator[dict[str, bytes | None]]:
    """The jobs of a sorted set, page by page, with their statuses; those that are gone are to be removed."""
    start = 0
    while True:
        entries: Any = connection.zrange(index, start, start + _PAGE - 1)
        ids = [entry.decode(errors="surrogateescape") for entry in entries]
        page = dict(zip(ids, _statuses(connection, ids), strict=True))
        yield page
        if len(ids) < _PAGE:
            return
        start += _PAGE - len(_gone(page))


def _job_ids(connection: Redis, key: str, last: int = -1) -> list[str]:
    """The jobs in a list of RQ's, up to a place in it; what others wrote there is passed over."""
    entries: Any = connection.lrange(key, 0, last)
    return [job_id for entry in entries if JOB_ID.fullmatch(job_id := entry.decode(errors="replace"))]


def _raw(name: str) -> bytes:
    """A name as it stands on the server, where others may have written any bytes."""
    return name.encode(errors="surrogateescape")


def _gone(page: dict[str, bytes | None]) -> list[str]:
    return [job_id for job_id, status in page.items() if status is None]


def _without_end(connection: Redis, page: dict[str, bytes | None]) -> list[str]:
    """Those that ended and whose logs do not lapse: a log lapses from its last event on."""
    ended = [job_id for job_id, status in page.items() if status in _ENDED]
    pipeline = connection.pipeline(transaction=False)
    for job_id in ended:
        pipeline.ttl(events_key(job_id))
    lasting = replies_of(pipeline) if ended else []
    return [job_id for job_id, seconds in zip(ended, lasting, strict=True) if seconds == -1]


def _statuses(connection: Redis, job_ids: Sequence[str]) -> list[bytes | None]:
    pipeline = connection.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.hget(_raw(Job.key_for(job_id)), "status")
    return replies_of(pipeline) if job_ids else []
