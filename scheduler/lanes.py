"""Each owner's waiting jobs, and what each owner was served: indexes beside RQ's lists, for fair shares.

An owner is a digest of an API key, or '' (:mod:`scheduler.owner`). The rule is in :mod:`scheduler.shares`; here
are its account and its lanes on the server. RQ's lists are the truth of what waits: a job that only a lane has is
claimed where its list has it, and nowhere.

Keys::

    tidegate:lane:{class}:{owner} sorted set; waiting job -> 0, or -1 where it was put back to the front
    tidegate:owners:{class}       sorted set; owner with a lane -> Unix seconds since when it waits unserved
    tidegate:served:{class}       sorted set; owner -> its score, and ``clock``: bounded; lapses a day after a claim
    tidegate:owned:jobs           sorted set; owner -> its waiting jobs, of all classes
    tidegate:owned:tokens         sorted set; owner -> their tokens of work
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from redis.client import Pipeline

from scheduler.owner import OWNER
from scheduler.shares import FORGIVEN, Served, Turn
from scheduler.slip import Slip, counted
from scheduler.swap import Guard, Swap, Word

OWNED_JOBS_KEY: Final = "tidegate:owned:jobs"
OWNED_TOKENS_KEY: Final = "tidegate:owned:tokens"

_CLOCK: Final = "clock"  # no owner's name
_SERVED_SECONDS: Final = 86_400
_SCORES: Final = 4096
"""Scores that are kept of a class: the highest. Who stands at the clock needs none; in the end, as
:data:`~scheduler.shares.FORGIVEN` has it, those above the clock are fewer."""

_OWNERS: Final = 64
"""Owners of a class that one look compares: those unserved for longest. Beyond so many, turns go round."""


def lane_key(priority: str, owner: str) -> str:
    """An owner's waiting jobs of a class."""
    return f"tidegate:lane:{priority}:{owner}"


def owners_key(priority: str) -> str:
    """The owners that wait in a class."""
    return f"tidegate:owners:{priority}"


def served_key(priority: str) -> str:
    """What the owners were served in a class."""
    return f"tidegate:served:{priority}"


def enter_commands(
    job_id: str, slip: Slip, since_seconds: float, *, front: bool
) -> Iterator[tuple[Word, ...]]:
    """A job begins to wait, at its lane's end or front."""
    yield ("ZADD", lane_key(slip.priority, slip.owner), -1 if front else 0, job_id)
    yield ("ZADD", owners_key(slip.priority), "NX", since_seconds, slip.owner)
    yield ("ZINCRBY", OWNED_JOBS_KEY, 1, slip.owner)
    yield ("ZINCRBY", OWNED_TOKENS_KEY, slip.tokens, slip.owner)


def leave_commands(job_id: str, slip: Slip) -> Iterator[tuple[Word, ...]]:
    """A job waits no more; :func:`tidy_swap` follows, since its lane may be empty now."""
    if slip.priority:
        yield ("ZREM", lane_key(slip.priority, slip.owner), job_id)
        for key, number in ((OWNED_JOBS_KEY, 1), (OWNED_TOKENS_KEY, slip.tokens)):
            yield ("ZINCRBY", key, -number, slip.owner)
            yield ("ZREMRANGEBYSCORE", key, "-inf", 0)


def charge_commands(slip: Slip, turn: Turn, now_seconds: float) -> Iterator[tuple[Word, ...]]:
    """A claimed job is charged to its owner: :meth:`scheduler.shares.Served.charge`, on the server."""
    key = served_key(slip.priority)
    yield ("ZREMRANGEBYRANK", key, 0, -1 - _SCORES)
    yield ("ZADD", key, "GT", turn.floor, slip.owner)
    yield ("ZINCRBY", key, slip.tokens, slip.owner)
    yield ("ZADD", key, "GT", turn.start, _CLOCK)
    yield ("EXPIRE", key, _SERVED_SECONDS)
    yield ("ZADD", owners_key(slip.priority), "XX", now_seconds, slip.owner)


def tidy_swap(slip: Slip) -> Swap:
    """The swap that forgets an owner whose lane is empty."""
    return Swap((_empty(slip),), (("ZREM", owners_key(slip.priority), slip.owner),))


def forgive_swap(slip: Slip, *guards: Guard) -> Swap:
    """The swap that moves the clock on after the last job of an owner was charged."""
    move = ("ZINCRBY", served_key(slip.priority), slip.tokens * FORGIVEN, _CLOCK)
    return Swap((*guards, _empty(slip)), (move,))


def _empty(slip: Slip) -> Guard:
    return Guard(("ZCARD", lane_key(slip.priority, slip.owner)), 0)


def drop_swap(job_id: str, slip: Slip, *guards: Guard) -> Swap:
    """The swap that takes a job out of its lane which its list has not."""
    return Swap(guards, (("ZREM", lane_key(slip.priority, slip.owner), job_id),))


def restore_swap(job_id: str, slip: Slip, *guards: Guard) -> Swap:
    """The swap that puts a waiting job into its lane which lacks there."""
    return Swap(
        guards,
        (
            ("ZADD", lane_key(slip.priority, slip.owner), "NX", 0, job_id),
            ("ZADD", owners_key(slip.priority), "NX", 0, slip.owner),
        ),
    )


def owner_guards(slip: Slip, max_jobs: int | None, max_tokens: int | None) -> Iterator[Guard]:
    """That one more job stays within its owner's own bounds, where there are any."""
    if max_jobs is not None:
        yield Guard(("ZSCORE", OWNED_JOBS_KEY, slip.owner), max_jobs - 1, "<=")
    if max_tokens is not None:
        yield Guard(("ZSCORE", OWNED_TOKENS_KEY, slip.owner), max(0, max_tokens - slip.tokens), "<=")


def owned(connection: Redis, owner: str) -> tuple[int, int]:
    """How many jobs of an owner wait, and their tokens of work."""
    pipeline = connection.pipeline(transaction=False)
    pipeline.zscore(OWNED_JOBS_KEY, owner)
    pipeline.zscore(OWNED_TOKENS_KEY, owner)
    jobs, tokens = pipeline.execute()
    return counted(jobs), counted(tokens)


@dataclass(frozen=True, slots=True)
class Look:
    """What a class's lanes hold: since when each owner waits unserved, its first jobs, and the account.

    Those of ``jobs`` that were put back to the front are in ``back`` too.
    """

    since: Mapping[str, float]
    jobs: Mapping[str, list[str]]
    back: Mapping[str, list[str]]
    served: Served


def ask_owners(pipeline: Pipeline, priority: str) -> None:
    """Ask for the owners that one look at a class compares; :func:`read_owners` reads the reply."""
    pipeline.zrange(owners_key(priority), 0, _OWNERS - 1, withscores=True)


def read_owners(reply: Any) -> dict[str, float]:
    """Owners, and since when each waits unserved."""
    named = ((owner.decode(errors="replace"), float(seconds)) for owner, seconds in reply)
    return {owner: seconds for owner, seconds in named if OWNER.fullmatch(owner)}


def look(connection: Redis, owners: Mapping[str, Mapping[str, float]], count: int) -> dict[str, Look]:
    """The lanes of classes, in one round trip.

    Args:
        connection: a client that answers bytes.
        owners: by class, as :func:`read_owners` has them.
        count: jobs of a class that are wanted of all owners together. An owner's first job is always among what is
            read; the jobs of one who waits alone are not read, since the list has them in order.
    """
    pipeline = connection.pipeline(transaction=False)
    for priority, since in owners.items():
        pipeline.zmscore(served_key(priority), [_CLOCK, *since])
        for owner in since if len(since) > 1 else ():
            each = max(1, -(-count // len(since)))
            pipeline.zrange(lane_key(priority, owner), 0, each - 1, withscores=True)
    replies = iter(pipeline.execute() if owners else ())
    return {priority: _read_look(since, replies) for priority, since in owners.items()}


def _read_look(since: Mapping[str, float], replies: Iterator[Any]) -> Look:
    clock, *scores = next(replies)
    lanes = {
        owner: [(job_id.decode(errors="replace"), place) for job_id, place in next(replies)]
        for owner in (since if len(since) > 1 else ())
    }
    known = {owner: score for owner, score in zip(since, scores, strict=True) if score is not None}
    return Look(
        since,
        {owner: [job_id for job_id, _ in lane] for owner, lane in lanes.items()},
        {owner: [job_id for job_id, place in lane if place < 0] for owner, lane in lanes.items()},
        Served(known, clock or 0.0),
    )
