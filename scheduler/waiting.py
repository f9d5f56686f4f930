"""What waits, beside RQ's lists: work in tokens, passes, deadlines. Indexes; the lists are the truth.

Keys::

    tidegate:waiting        hash; waiting job -> tokens of work
    tidegate:waiting:tokens string; their sum
    tidegate:passes         hash; waiting job -> how often smaller ones passed it
    tidegate:deadlines      sorted set; waiting job -> when it has waited too long
    tidegate:wake           channel; something may be claimable
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis import Redis
from rq.job import Job, JobStatus

from scheduler.record import JobRecord
from scheduler.swap import Guard, Swap, Swapper, Word

WAITING_KEY: Final = "tidegate:waiting"
WAITING_TOKENS_KEY: Final = "tidegate:waiting:tokens"
PASSES_KEY: Final = "tidegate:passes"
DEADLINES_KEY: Final = "tidegate:deadlines"
WAKE_CHANNEL: Final = "tidegate:wake"


def enter_commands(rec: JobRecord) -> Iterator[tuple[Word, ...]]:
    """A job begins to wait; workers are told."""
    yield ("HSET", WAITING_KEY, rec.id, rec.meta.work_tokens)
    yield ("INCRBY", WAITING_TOKENS_KEY, rec.meta.work_tokens)
    if rec.meta.queue_deadline is not None and not rec.meta.attempt:
        yield ("ZADD", DEADLINES_KEY, rec.meta.queue_deadline, rec.id)
    yield ("PUBLISH", WAKE_CHANNEL, rec.meta.priority)


def leave_commands(rec: JobRecord) -> Iterator[tuple[Word, ...]]:
    """A job waits no more."""
    yield ("HDEL", WAITING_KEY, rec.id)
    yield ("DECRBY", WAITING_TOKENS_KEY, rec.meta.work_tokens)
    yield ("HDEL", PASSES_KEY, rec.id)
    yield ("ZREM", DEADLINES_KEY, rec.id)


def pass_swap(job_id: str, *guards: Guard) -> Swap:
    """The swap that counts that a job was passed, where it still waits."""
    return Swap((*guards, Guard(("HEXISTS", WAITING_KEY, job_id), 1)), (("HINCRBY", PASSES_KEY, job_id, 1),))


def bound_guards(rec: JobRecord, max_jobs: int, max_tokens: int) -> tuple[Guard, ...]:
    """That one more job stays within the queue's bounds."""
    return (
        Guard(("HLEN", WAITING_KEY), max_jobs - 1, "<="),
        Guard(("GET", WAITING_TOKENS_KEY), max(0, max_tokens - rec.meta.work_tokens), "<="),
    )


def waiting(connection: Redis) -> tuple[int, int]:
    """How many jobs wait, and their tokens of work."""
    pipeline = connection.pipeline(transaction=False)
    pipeline.hlen(WAITING_KEY)
    pipeline.get(WAITING_TOKENS_KEY)
    jobs, tokens = pipeline.execute()
    return int(jobs), max(0, int(tokens or 0))


def passes(connection: Redis, job_ids: Sequence[str]) -> dict[str, int]:
    """How often each job was passed."""
    counts: Any = connection.hmget(PASSES_KEY, list(job_ids))
    return {job_id: int(count or 0) for job_id, count in zip(job_ids, counts, strict=True)}


def overdue(connection: Redis, now_seconds: float) -> list[str]:
    """Waiting jobs whose deadline has passed."""
    late: Any = connection.zrangebyscore(DEADLINES_KEY, "-inf", f"({now_seconds!r}")
    return [job_id.decode() for job_id in late]


def reconcile(connection: Redis, swap: Swapper) -> None:
    """Drop the entries of jobs that do not wait any more or are gone, as after ``rq empty``."""
    entries: Any = connection.hgetall(WAITING_KEY)
    pipeline = connection.pipeline(transaction=False)
    for job_id in entries:
        pipeline.hget(Job.key_for(job_id.decode()), "status")
    statuses = pipeline.execute() if entries else []
    for (job_id, tokens), status in zip(entries.items(), statuses, strict=True):
        if status != JobStatus.QUEUED.value.encode():
            leave = (
                ("DECRBY", WAITING_TOKENS_KEY, int(tokens)),
                ("HDEL", PASSES_KEY, job_id),
                ("ZREM", DEADLINES_KEY, job_id),
            )
            as_read = Guard(("HGET", Job.key_for(job_id.decode()), "status"), status or "")
            swap(Swap((as_read, Guard(("HDEL", WAITING_KEY, job_id), 1)), leave))
    _count_again(connection, swap)


def _count_again(connection: Redis, swap: Swapper) -> None:
    """Mend the sum of tokens: a job that RQ itself put back left without having entered."""
    moment = connection.pipeline(transaction=True)
    moment.hvals(WAITING_KEY)
    moment.get(WAITING_TOKENS_KEY)
    work, counted = moment.execute()
    amiss = int(counted or 0) - sum(map(int, work))
    if amiss:
        as_read = Guard(("GET", WAITING_TOKENS_KEY), counted or "")
        swap(Swap((as_read,), (("DECRBY", WAITING_TOKENS_KEY, amiss),)))
