"""Batches on the server, and how they move; each move is one guarded swap.

Keys, beside those of their lines, in :mod:`scheduler.batch_progress`::

    tidegate:batch:{batch}        hash that lapses; the fields of :class:`~scheduler.batch.Batch`, ``at:{state}``, and
                                  those of its webhook (:mod:`scheduler.webhook_delivery`)
    tidegate:batches:of:{owner}   sorted set that lapses; an owner's batches, whose order is that of creation
    tidegate:batches:all          sorted set that lapses; everybody's, likewise
    tidegate:batches:active       sorted set that lapses; batch that has not ended -> when it began
    tidegate:batches:active:{owner}  likewise, an owner's
    tidegate:batches:feeder       string that lapses; the token of who feeds the batches now
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from redis import Redis

from scheduler.batch import (
    BATCH_ID,
    BATCH_SECONDS,
    CANCELLABLE,
    ENDED,
    WINDOW_SECONDS,
    Batch,
    BatchEvent,
    LineError,
    advance,
    moment_field,
    new_batch_id,
    read_batch,
)
from scheduler.batch_once import made_before
from scheduler.batch_progress import batch_key, results_key, running_key
from scheduler.errors import ClientError
from scheduler.file_keys import index_commands, lasting
from scheduler.files import Files
from scheduler.once import Once
from scheduler.queue import JobQueue
from scheduler.round_trip import replies_of
from scheduler.stored_file import StoredFile
from scheduler.swap import Guard, Swap, Word
from scheduler.webhook_delivery import Delivery
from scheduler.webhooks import end_commands, promise_commands

ACTIVE_KEY: Final = "tidegate:batches:active"
FEEDER_KEY: Final = "tidegate:batches:feeder"

ACTIVE_MOST: Final = 1000
"""Batches of all owners that have not ended; what each keeps of its lines is bounded by its input."""

OWNER_ACTIVE_MOST: Final = 100
"""Of these, one owner's: no API key takes the others' room. Those without a key, who are one owner, may have all."""

_MOVE_TRIES: Final = 20
_OVERTAKEN: Final = -5
"""The answer of the swap that makes a batch where another request with its key came first."""


def owned_key(owner: str | None) -> str:
    """An owner's batches; everybody's for None."""
    return "tidegate:batches:all" if owner is None else f"tidegate:batches:of:{owner}"


def active_key(owner: str) -> str:
    """An owner's batches that have not ended."""
    return f"{ACTIVE_KEY}:{owner}"


class Batches:
    """The batches on one server.

    Args:
        queue: the store of jobs.
        files: the store of files.
        clock: Unix seconds.
    """

    def __init__(self, queue: JobQueue, files: Files, clock: Callable[[], float]) -> None:
        self._connection: Redis = queue.connection
        self._queue, self._files, self._clock = queue, files, clock

    def create(
        self,
        owner: str,
        endpoint: str,
        file: StoredFile,
        metadata: dict[str, str] | None,
        output_seconds: int,
        webhook: Delivery | None = None,
        once: Once | None = None,
    ) -> Batch:
        """Begin a batch over a file, or find the one that the same request began before.

        Args:
            owner: whose it is.
            endpoint: the route that its lines are for.
            file: its input.
            metadata: its client's own.
            output_seconds: how long what it writes is kept.
            webhook: what tells of its end.
            once: what tells the request from others.

        Raises:
            ClientError: ``not_found``; the file is there no more. ``queue_full``, ``rate_limit_exceeded``; too many batches have
                not ended, of all or of the owner.
                ``idempotency_mismatch``.
        """
        now = self._clock()
        batch = Batch(
            new_batch_id(now),
            owner,
            endpoint,
            file.id,
            now,
            now + WINDOW_SECONDS,
            metadata=metadata,
            output_seconds=output_seconds,
            webhook=webhook,
        )
        for _ in range(_MOVE_TRIES):
            fresh = made_before(self._connection, once, batch.id, self.find)
            if isinstance(fresh, Batch):
                return replace(fresh, replayed=True)
            (done,) = self._queue.swap(self._creation(batch, file, fresh))
            if done == 1:
                return batch
            if done == -2:  # noqa: PLR2004 (the second guard)
                why = f"{OWNER_ACTIVE_MOST:,} batches of this API key have not ended yet"
                raise ClientError("rate_limit_exceeded", why, retry_after=120)
            if done == -1:
                break
            if done != _OVERTAKEN:
                raise ClientError("not_found", f"no file {file.id!r}", param="input_file_id")
        raise ClientError("queue_full", f"{ACTIVE_MOST:,} batches have not ended yet", retry_after=120)

    def made_before(self, once: Once | None) -> Batch | None:
        """The batch that an earlier request of the same caller made, which this one repeats.

        Raises:
            ClientError: ``idempotency_mismatch``.
        """
        found = made_before(self._connection, once, "", self.find)
        return replace(found, replayed=True) if isinstance(found, Batch) else None

    def _creation(self, batch: Batch, file: StoredFile, fresh: Swap) -> Swap:
        """The swap by which a batch is there; the last guard that can fail is the one of ``fresh``."""
        key = batch_key(batch.id)
        names = (
            "owner",
            "endpoint",
            "input_file_id",
            "created_at",
            "expires_at",
            "output_seconds",
            "next_line",
        )
        flat: list[Word] = [word for name in names for word in (name, getattr(batch, name))]
        room = Guard(("ZCARD", ACTIVE_KEY), ACTIVE_MOST - 1, "<=")
        own_key, own_most = active_key(batch.owner), OWNER_ACTIVE_MOST if batch.owner else ACTIVE_MOST
        own_room = Guard(("ZCARD", own_key), own_most - 1, "<=")
        return Swap(
            guards=(room, own_room, *self._files.here_guards(file), *fresh.guards),
            commands=(
                ("HSET", key, "status", batch.status.value, *flat),
                ("HSET", key, "metadata", json.dumps(batch.metadata)),
                *promise_commands(key, batch.webhook),
                ("EXPIRE", key, BATCH_SECONDS),
                *index_commands(map(owned_key, (batch.owner, None)), batch.id, BATCH_SECONDS),
                *(("ZADD", each, batch.created_at, batch.id) for each in (ACTIVE_KEY, own_key)),
                *lasting(ACTIVE_KEY, BATCH_SECONDS),
                *lasting(own_key, BATCH_SECONDS),
                (
                    "ZREMRANGEBYSCORE",
                    own_key,
                    "-inf",
                    batch.created_at - BATCH_SECONDS,
                ),  # gone without an end
                *self._files.hold_commands(file, BATCH_SECONDS),
                *fresh.commands,
            ),
        )

    def get(self, batch_id: str, owner: str | None) -> Batch:
        """A batch of an owner; of anybody for None.

        Raises:
            ClientError: ``not_found``; there is none, or it is another's.
        """
        found = self.find(batch_id)
        if found is None or owner not in {None, found.owner}:
            raise ClientError("not_found", f"no batch {batch_id[:64]!r}", param="id")
        return found

    def find(self, batch_id: str) -> Batch | None:
        """A batch, whosever it is."""
        if not BATCH_ID.fullmatch(batch_id):
            return None
        fields: Any = self._connection.hgetall(batch_key(batch_id))
        return read_batch(batch_id, fields)

    def page(self, owner: str | None, limit: int, after: str | None = None) -> tuple[list[Batch], bool]:
        """An owner's batches, newest first, and whether there are more.

        Args:
            owner: whose; everybody's for None.
            limit: how many at most.
            after: the last batch of the page before.
        """
        found: list[Batch] = []
        key, begin = owned_key(owner), f"({after}".encode() if after else b"+"
        while len(found) <= limit:
            ids: Any = self._connection.zrevrangebylex(key, begin, "-", start=0, num=limit + 1)
            if not ids:
                break
            names = [entry.decode(errors="replace") for entry in ids]
            pipeline = self._connection.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(batch_key(name))
            replies = [fields or {} for fields in replies_of(pipeline)]
            if gone := [entry for entry, fields in zip(ids, replies, strict=True) if not fields]:
                self._connection.zrem(key, *gone)
            read = (read_batch(name, fields) for name, fields in zip(names, replies, strict=True))
            found += [batch for batch in read if batch is not None]
            begin = b"(" + ids[-1]
        return found[:limit], len(found) > limit

    def active(self) -> list[str]:
        """The batches that have not ended, oldest first."""
        ids: Any = self._connection.zrange(ACTIVE_KEY, 0, -1)
        return [entry.decode(errors="replace") for entry in ids]

    def forget(self, batch_id: str) -> None:
        """A batch is gone: it has lapsed."""
        self._connection.zrem(ACTIVE_KEY, batch_id)

    def cancel(self, batch: Batch) -> Batch:
        """Ask that a batch ends early; one that ended, or is about to, stays as it is."""
        for _ in range(_MOVE_TRIES):
            if batch.status not in CANCELLABLE or self.move(batch, BatchEvent.CANCEL):
                break
            batch = self.get(batch.id, batch.owner)
        return self.get(batch.id, batch.owner)

    def refuse(self, batch: Batch, errors: Sequence[LineError]) -> bool:
        """End a batch that has no line to run; False where it moved meanwhile."""
        return self.move(batch, BatchEvent.REFUSE, errors=json.dumps([error.view() for error in errors]))

    def move(self, batch: Batch, event: BatchEvent, *behind: Swap, **fields: Word) -> bool:
        """Move a batch on, if it is still in the state that was read.

        Args:
            batch: as it was read.
            event: what moves it.
            behind: swaps of the same step; each asks by itself whether this one was done.
            fields: what is known of it now.
        """
        state, key, now = advance(batch.status, event), batch_key(batch.id), self._clock()
        flat = [word for pair in fields.items() for word in pair]
        commands: list[tuple[Word, ...]] = [
            ("HSET", key, "status", state.value, moment_field(state), now, *flat),
        ]
        if state in ENDED:
            commands += [
                *(("ZREM", each, batch.id) for each in (ACTIVE_KEY, active_key(batch.owner))),
                ("DEL", running_key(batch.id), results_key(batch.id)),
                ("EXPIRE", key, BATCH_SECONDS),
                *end_commands(key, batch.webhook, batch.id, state.value, now),
            ]
            done = Guard((), 1 + len(behind), "done")
            behind = (*behind, self._files.let_go_swap(batch.input_file_id, done))
        still = Guard(("HGET", key, "status"), batch.status.value)
        return self._queue.swap(Swap((still,), tuple(commands)), *behind)[0] == 1

    def lead(self, token: str, seconds: float) -> bool:
        """Whether this token's holder feeds the batches, for so long from now on."""
        milliseconds = int(seconds * 1000)
        if self._connection.set(FEEDER_KEY, token, nx=True, px=milliseconds):
            return True
        mine = Guard(("GET", FEEDER_KEY), token)
        return self._queue.swap(Swap((mine,), (("PEXPIRE", FEEDER_KEY, milliseconds),))) == [1]

    def resign(self, token: str) -> None:
        """Let another feed them."""
        self._queue.swap(Swap((Guard(("GET", FEEDER_KEY), token),), (("DEL", FEEDER_KEY),)))
