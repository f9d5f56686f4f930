"""The webhooks that are to be sent: put here with the end that they tell of, leased to one sender at a time.

What is to be sent stands in the hash of what ended (:mod:`scheduler.webhook_delivery`), so it is gone when that is.
Keys beside it::

    tidegate:webhooks         sorted set; key of such a hash -> when it is to be sent, or when its lease lapses (Unix
                              seconds); an entry leaves when it was sent, given up, or its hash is gone
    tidegate:webhooks:ended   hash; ``delivered``, ``failed``, ``dropped`` -> how many ended so, for ever
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from redis import Redis

from scheduler.slip import counted
from scheduler.swap import Guard, Swap, Swapper, Word
from scheduler.webhook_delivery import (
    DELIVERY_FIELD,
    EVENT_FIELD,
    RECIPIENT_FIELD,
    Delivery,
    Recipient,
    event_body,
    event_id,
)

DUE_KEY: Final = "tidegate:webhooks"
ENDED_KEY: Final = "tidegate:webhooks:ended"

_SUBJECT: Final = re.compile(r"(?:rq:job|tidegate):[0-9A-Za-z_:-]{1,100}")
ENDINGS: Final = ("delivered", "failed", "dropped")
_PAGE: Final = 500


def promise_commands(key: str, delivery: Delivery | None) -> tuple[tuple[Word, ...], ...]:
    """What a swap that makes a job, or a batch, does for its webhook.

    Args:
        key: the hash of what is made.
        delivery: as :func:`~scheduler.webhook_delivery.promise` made it; nothing is done for None.
    """
    if delivery is None or delivery.recipient is None:
        return ()
    return (("HSET", key, DELIVERY_FIELD, delivery.dump(), RECIPIENT_FIELD, delivery.recipient.dump()),)


def end_commands(
    key: str, delivery: Delivery | None, subject_id: str, status: str, now_seconds: float
) -> tuple[tuple[Word, ...], ...]:
    """What the swap that ends a job, or a batch, does for its webhook: its delivery is due from then on.

    Args:
        key: the hash of what ended.
        delivery: as it was read; nothing is done where there is none, or an end was told before.
        subject_id: the id of what ended.
        status: how it ended, the last word of the event's type.
        now_seconds: when.
    """
    if delivery is None or delivery.status != "waiting":
        return ()
    body = event_body(delivery.about, subject_id, status, now_seconds)
    pending = replace(delivery, status="pending").dump()
    return (
        ("HSET", key, DELIVERY_FIELD, pending, EVENT_FIELD, body),
        ("ZADD", DUE_KEY, now_seconds, key),
    )


def forget_commands(keys: Sequence[str]) -> tuple[tuple[Word, ...], ...]:
    """What a swap that deletes jobs, or batches, does for their webhooks beside deleting their hashes."""
    return (("ZREM", DUE_KEY, *keys),) if keys else ()


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that is to be sent.

    Args:
        key: the hash that it stands in.
        delivery: how it stands.
        recipient: where it goes.
        event_id: the event's, the same on every try.
        body: the event.
    """

    key: str
    delivery: Delivery
    recipient: Recipient
    event_id: str
    body: bytes


class Webhooks:
    """The deliveries on one server.

    Args:
        connection: a client that answers bytes.
        swap: runs swaps there.
    """

    def __init__(self, connection: Redis, swap: Swapper) -> None:
        self._connection = connection
        self._swap = swap

    def due_keys(self, now_seconds: float, start: int, most: int) -> list[str]:
        """Where deliveries stand whose time has come, the longest due first, from a place in that order on."""
        entries: Any = self._connection.zrangebyscore(DUE_KEY, "-inf", now_seconds, start=start, num=most)
        return [entry.decode(errors="surrogateescape") for entry in entries]

    def read(self, keys: Sequence[str]) -> list[Due]:
        """The deliveries behind entries; an entry that leads to none is dropped."""
        pipeline, found = self._connection.pipeline(transaction=False), list[Due]()
        names = [key.encode(errors="surrogateescape") for key in keys]
        for name in names:
            pipeline.hmget(name, DELIVERY_FIELD, RECIPIENT_FIELD, EVENT_FIELD)
        replies = pipeline.execute(raise_on_error=False) if names else ()
        for key, name, fields in zip(keys, names, replies, strict=True):
            due = _due(key, fields)
            if due is not None:
                found.append(due)
            else:  # unless another ended it meanwhile
                dropped = Guard(("ZREM", DUE_KEY, name), 1)
                self._swap(Swap((dropped,), (("HINCRBY", ENDED_KEY, "dropped", 1),)))
        return found

    def lease(self, due: Due, now_seconds: float, until_seconds: float) -> Due | None:
        """Take a delivery for one try, until the lease lapses; None where another was first.

        The try is counted here: one whose sender dies counts as well.
        """
        begun = replace(due.delivery, attempts=due.delivery.attempts + 1)
        still_due = Guard(("ZSCORE", DUE_KEY, due.key), now_seconds, "<=")
        return self._move(due, begun, (("ZADD", DUE_KEY, until_seconds, due.key),), still_due)

    def postpone(self, due: Due, until_seconds: float) -> bool:
        """Leave a delivery for later as it is, whether leased or not; False where another took it."""
        return self._move(due, due.delivery, (("ZADD", DUE_KEY, until_seconds, due.key),)) is not None

    def retry(self, due: Due, at_seconds: float, error: str) -> bool:
        """A try failed, and there is another one; False where the lease had lapsed."""
        failed = replace(due.delivery, last_error=error)
        return self._move(due, failed, (("ZADD", DUE_KEY, at_seconds, due.key),)) is not None

    def end(self, due: Due, error: str | None = None) -> bool:
        """A delivery was made, or, with an error, is given up; its secret goes. False where the lease had lapsed."""
        ended = replace(due.delivery, status="delivered" if error is None else "failed", last_error=error)
        commands = (
            ("ZREM", DUE_KEY, due.key),
            ("HDEL", due.key, RECIPIENT_FIELD, EVENT_FIELD),
            ("HINCRBY", ENDED_KEY, ended.status, 1),
        )
        return self._move(due, ended, commands) is not None

    def tidy(self) -> None:
        """Drop the entries whose jobs are gone, as their keys' lapse leaves them."""
        start = 0
        while True:
            entries: Any = self._connection.zrange(DUE_KEY, start, start + _PAGE - 1)
            start += len(self.read([entry.decode(errors="surrogateescape") for entry in entries]))
            if len(entries) < _PAGE:
                return

    def counts(self) -> dict[str, int]:
        """How many are to be sent, and how many ended how."""
        pipeline = self._connection.pipeline(transaction=False)
        pipeline.zcard(DUE_KEY)
        pipeline.hmget(ENDED_KEY, ENDINGS)
        pending, ended = pipeline.execute()
        return {"pending": pending} | {
            name: counted(number) for name, number in zip(ENDINGS, ended, strict=True)
        }

    def _move(
        self, due: Due, after: Delivery, commands: Sequence[tuple[Word, ...]], *more: Guard
    ) -> Due | None:
        """Change how a delivery stands, if it stands as it was read; it then stands as answered."""
        stored = after.dump()
        as_read = Guard(("HGET", due.key, DELIVERY_FIELD), due.delivery.stored or due.delivery.dump())
        swap = Swap((as_read, *more), (("HSET", due.key, DELIVERY_FIELD, stored), *commands))
        return replace(due, delivery=replace(after, stored=stored)) if self._swap(swap) == [1] else None


def _due(key: str, fields: Any) -> Due | None:
    """A delivery, from the fields of its hash or an error; None where there is none to send."""
    if not _SUBJECT.fullmatch(key) or not isinstance(fields, list):
        return None
    delivery, recipient = Delivery.parse(fields[0]), Recipient.parse(fields[1])
    body: bytes = fields[2] or b""
    name = event_id(body)
    if delivery is None or delivery.status != "pending" or recipient is None or name is None:
        return None
    return Due(key, delivery, recipient, name, body)
