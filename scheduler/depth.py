"""How deep the queue is, for who measures it: one round trip, whatever waits. It owns no key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from scheduler.bookings import BOOKINGS_KEY
from scheduler.job import JOB_ID, made_at
from scheduler.round_trip import replies_of
from scheduler.slip import counted
from scheduler.waiting import class_tokens_key
from scheduler.webhooks import DUE_KEY, ENDED_KEY, ENDINGS


@dataclass(frozen=True, slots=True)
class ClassDepth:
    """What waits in a class: jobs, tokens of work, and since when (Unix seconds) the one at its head; None: nothing does."""

    jobs: int
    tokens: int
    head_made_at: float | None


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits; what others gave another type is left out.

    Args:
        classes: by priority.
        places: those held for clients who were refused.
        webhooks: that are to be sent.
        webhooks_ended: by how they ended, for ever.
    """

    classes: dict[str, ClassDepth] = field(default_factory=dict)
    places: int | None = None
    webhooks: int | None = None
    webhooks_ended: dict[str, int] = field(default_factory=dict)


def read_depth(connection: Redis, lists: Mapping[str, str]) -> Depth:
    """Read it.

    Args:
        connection: a client that answers bytes.
        lists: the key of each class's list.

    Raises:
        RedisError: the server did not answer.
    """
    pipeline = connection.pipeline(transaction=False)
    for name, key in lists.items():
        pipeline.llen(key)
        pipeline.get(class_tokens_key(name))
        pipeline.lindex(key, 0)
    pipeline.hlen(BOOKINGS_KEY)
    pipeline.zcard(DUE_KEY)
    pipeline.hmget(ENDED_KEY, ENDINGS)
    replies: list[Any] = replies_of(pipeline)
    *by_class, places, webhooks, ended = replies
    each = zip(lists, by_class[::3], by_class[1::3], by_class[2::3], strict=True)
    return Depth(
        {
            name: ClassDepth(jobs, max(0, counted(tokens)), _made_at(head))
            for name, jobs, tokens, head in each
            if jobs is not None
        },
        places,
        webhooks,
        dict(zip(ENDINGS, map(counted, ended), strict=True)) if ended is not None else {},
    )


def _made_at(head: bytes | None) -> float | None:
    name = (head or b"").decode(errors="replace")
    return made_at(name) if JOB_ID.fullmatch(name) else None
