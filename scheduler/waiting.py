"""What waits, beside RQ's lists: work in tokens, passes, deadlines. Indexes; the lists are the truth.

Keys, beside those of :mod:`scheduler.slip` and :mod:`scheduler.lanes`::

    tidegate:waiting:tokens string; the sum of all tokens
    tidegate:waiting:tokens:{class} string; the sum of a class
    tidegate:passes         hash; waiting job -> how often smaller ones passed it
    tidegate:deadlines      sorted set; waiting job -> when it has waited too long
    tidegate:wake           channel; something may be claimable
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from scheduler import lanes
from scheduler.errors import so_many
from scheduler.record import JobRecord
from scheduler.room import Most
from scheduler.settings import Settings
from scheduler.slip import WAITING_KEY, Slip, counted
from scheduler.swap import Guard, Swap, Word

WAITING_TOKENS_KEY: Final = "tidegate:waiting:tokens"
PASSES_KEY: Final = "tidegate:passes"
DEADLINES_KEY: Final = "tidegate:deadlines"
WAKE_CHANNEL: Final = "tidegate:wake"


def class_tokens_key(priority: str) -> str:
    """Where a class's tokens of work are summed."""
    return f"{WAITING_TOKENS_KEY}:{priority}"


def enter_commands(rec: JobRecord, *, front: bool = False) -> Iterator[tuple[Word, ...]]:
    """A job begins to wait, at its list's end or front; workers are told."""
    slip = Slip.of(rec)
    yield ("HSET", WAITING_KEY, rec.id, str(slip))
    yield ("INCRBY", WAITING_TOKENS_KEY, slip.tokens)
    yield ("INCRBY", class_tokens_key(slip.priority), slip.tokens)
    yield from lanes.enter_commands(rec.id, slip, rec.enqueued_at, front=front)
    if rec.meta.queue_deadline is not None and not rec.meta.attempt:
        yield ("ZADD", DEADLINES_KEY, rec.meta.queue_deadline, rec.id)
    yield ("PUBLISH", WAKE_CHANNEL, rec.meta.priority)


def leave_commands(job_id: str, slip: Slip) -> Iterator[tuple[Word, ...]]:
    """A job waits no more; :func:`scheduler.lanes.tidy_swap` follows."""
    yield ("HDEL", WAITING_KEY, job_id)
    yield ("DECRBY", WAITING_TOKENS_KEY, slip.tokens)
    if slip.priority:
        yield ("DECRBY", class_tokens_key(slip.priority), slip.tokens)
    yield from lanes.leave_commands(job_id, slip)
    yield ("HDEL", PASSES_KEY, job_id)
    yield ("ZREM", DEADLINES_KEY, job_id)


def pass_swap(job_id: str, *guards: Guard) -> Swap:
    """The swap that counts that a job was passed, where it still waits."""
    return Swap((*guards, Guard(("HEXISTS", WAITING_KEY, job_id), 1)), (("HINCRBY", PASSES_KEY, job_id, 1),))


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait: jobs and tokens of work, of all owners and of each; None where each has no bound."""

    jobs: int
    tokens: int
    owner_jobs: int | None = None
    owner_tokens: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        """Those that an operator set."""
        return cls(
            settings.max_queued_jobs,
            settings.max_queued_tokens,
            settings.max_queued_jobs_per_key,
            settings.max_queued_tokens_per_key,
        )

    def most(self, target_wait_seconds: float) -> Most:
        """The same with the time that a job should wait at most, as :mod:`scheduler.room` reads them."""
        own = [math.inf if each is None else each for each in (self.owner_jobs, self.owner_tokens)]
        return Most(self.jobs, self.tokens, target_wait_seconds, *own)

    def guards(self, slip: Slip) -> tuple[Guard, ...]:
        """That one more job stays within them: two of the whole queue, then the owner's."""
        return (
            Guard(("HLEN", WAITING_KEY), self.jobs - 1, "<="),
            Guard(("GET", WAITING_TOKENS_KEY), max(0, self.tokens - slip.tokens), "<="),
            *lanes.owner_guards(slip, self.owner_jobs, self.owner_tokens),
        )

    def why_full(self, slip: Slip, waiting: tuple[int, int], owned: tuple[int, int]) -> str:
        """Which bound a job met, with the numbers: the whole queue's, else its owner's.

        Args:
            slip: the job's.
            waiting: jobs and tokens that wait.
            owned: of them, those of the job's owner.
        """
        jobs, tokens = waiting
        own_jobs, own_tokens = owned
        own = [
            so_many(most, what)
            for most, what in ((self.owner_jobs, "job"), (self.owner_tokens, "token"))
            if most is not None
        ]
        if own and jobs < self.jobs and tokens + slip.tokens <= self.tokens:
            return f"{_waiting(own_jobs, own_tokens)} for this API key; at most {' and '.join(own)} of one key may"
        return f"{_waiting(jobs, tokens)}; at most {self.jobs:,} and {self.tokens:,} may"


def _waiting(jobs: int, tokens: int) -> str:
    waits = "waits" if jobs == 1 else "wait"
    return f"{so_many(jobs, 'job')} with {so_many(tokens, 'token')} of work {waits}"


def waiting(connection: Redis) -> tuple[int, int]:
    """How many jobs wait, and their tokens of work."""
    pipeline = connection.pipeline(transaction=False)
    pipeline.hlen(WAITING_KEY)
    pipeline.get(WAITING_TOKENS_KEY)
    jobs, tokens = pipeline.execute()
    return int(jobs), max(0, counted(tokens))


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
    return {name: (int(next(replies)), max(0, counted(next(replies)))) for name in lists}


def overdue(connection: Redis, now_seconds: float) -> list[str]:
    """Waiting jobs whose deadline has passed."""
    late: Any = connection.zrangebyscore(DEADLINES_KEY, "-inf", f"({now_seconds!r}")
    return [job_id.decode(errors="replace") for job_id in late]
