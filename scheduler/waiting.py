"""What waits, beside RQ's lists: work in tokens, passes, deadlines. Indexes; the lists are the truth.

Keys::

    tidegate:waiting        hash; waiting job -> its slip: tokens of work, class
    tidegate:waiting:tokens string; the sum of all tokens
    tidegate:waiting:tokens:{class} string; the sum of a class
    tidegate:passes         hash; waiting job -> how often smaller ones passed it
    tidegate:deadlines      sorted set; waiting job -> when it has waited too long
    tidegate:wake           channel; something may be claimable
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from rq.job import Job, JobStatus

from scheduler.job import PRIORITIES
from scheduler.record import JobRecord
from scheduler.swap import Guard, Swap, Swapper, Word

WAITING_KEY: Final = "tidegate:waiting"
WAITING_TOKENS_KEY: Final = "tidegate:waiting:tokens"
PASSES_KEY: Final = "tidegate:passes"
DEADLINES_KEY: Final = "tidegate:deadlines"
WAKE_CHANNEL: Final = "tidegate:wake"


@dataclass(frozen=True, slots=True)
class Slip:
    """What the index keeps of a waiting job, so that what it left can be mended when the job itself is gone."""

    tokens: int
    priority: str

    @classmethod
    def of(cls, rec: JobRecord) -> Slip:
        """A job's."""
        return cls(rec.meta.work_tokens, rec.meta.priority)

    @classmethod
    def parse(cls, text: bytes) -> Slip:
        """Read a slip; what is no number or class counts nothing, nowhere."""
        tokens, _, priority = text.decode(errors="replace").partition(" ")
        sound = tokens.isdecimal() and len(tokens) <= _DIGITS and (not priority or priority in PRIORITIES)
        return cls(int(tokens), priority) if sound else cls(0, "")

    def __str__(self) -> str:
        return f"{self.tokens} {self.priority}"


_DIGITS: Final = 15  # of a number that every client and script of the server holds exactly


def class_tokens_key(priority: str) -> str:
    """Where a class's tokens of work are summed."""
    return f"{WAITING_TOKENS_KEY}:{priority}"


def enter_commands(rec: JobRecord) -> Iterator[tuple[Word, ...]]:
    """A job begins to wait; workers are told."""
    yield ("HSET", WAITING_KEY, rec.id, str(Slip.of(rec)))
    yield ("INCRBY", WAITING_TOKENS_KEY, rec.meta.work_tokens)
    yield ("INCRBY", class_tokens_key(rec.meta.priority), rec.meta.work_tokens)
    if rec.meta.queue_deadline is not None and not rec.meta.attempt:
        yield ("ZADD", DEADLINES_KEY, rec.meta.queue_deadline, rec.id)
    yield ("PUBLISH", WAKE_CHANNEL, rec.meta.priority)


def leave_commands(rec: JobRecord) -> Iterator[tuple[Word, ...]]:
    """A job waits no more."""
    yield ("HDEL", WAITING_KEY, rec.id)
    yield from _gone_commands(rec.id, Slip.of(rec))


def _gone_commands(job_id: str, slip: Slip) -> Iterator[tuple[Word, ...]]:
    yield ("DECRBY", WAITING_TOKENS_KEY, slip.tokens)
    if slip.priority:
        yield ("DECRBY", class_tokens_key(slip.priority), slip.tokens)
    yield ("HDEL", PASSES_KEY, job_id)
    yield ("ZREM", DEADLINES_KEY, job_id)


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


def waiting_by_class(connection: Redis, lists: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """How many jobs of each class wait, by its list, and their tokens of work; one round trip.

    Args:
        connection: a client that answers bytes.
        lists: the key of each class's list.
    """
    pipeline = connection.pipeline(transaction=False)
    for name, key in lists.items():
        pipeline.llen(key)
        pipeline.get(class_tokens_key(name))
    replies = iter(pipeline.execute())
    return {name: (int(next(replies)), max(0, int(next(replies) or 0))) for name in lists}


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
    for (job_id, slip), status in zip(entries.items(), statuses, strict=True):
        if status != JobStatus.QUEUED.value.encode():
            as_read = Guard(("HGET", Job.key_for(job_id.decode()), "status"), status or "")
            leave = tuple(_gone_commands(job_id.decode(), Slip.parse(slip)))
            swap(Swap((as_read, Guard(("HDEL", WAITING_KEY, job_id), 1)), leave))
    _count_again(connection, swap)


def _count_again(connection: Redis, swap: Swapper) -> None:
    """Mend the sums of tokens: a job that RQ itself put back left without having entered."""
    sums = (WAITING_TOKENS_KEY, *map(class_tokens_key, PRIORITIES))
    moment = connection.pipeline(transaction=True)
    moment.hvals(WAITING_KEY)
    for key in sums:
        moment.get(key)
    slips, *counted = moment.execute()
    work = _work(map(Slip.parse, slips))
    for key, number in zip(sums, counted, strict=True):
        amiss = int(number or 0) - work[key]
        if amiss:
            as_read = Guard(("GET", key), number or "")
            swap(Swap((as_read,), (("DECRBY", key, amiss),)))


def _work(slips: Iterable[Slip]) -> Counter[str]:
    """The tokens of work that each sum should say."""
    work = Counter[str]()
    for slip in slips:
        work[WAITING_TOKENS_KEY] += slip.tokens
        work[class_tokens_key(slip.priority)] += slip.tokens
    return work
