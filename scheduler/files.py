"""Files that clients upload and that batches write, kept on the server in compressed chunks.

Room is reserved before a file is stored, and what compression saves is given back at its end: uploads that go
on at once stay within the bound too. A file is there from the swap at its end on; what was stored of one that
never got so far lapses. Each file counts a little more than its chunks, so that the bound is one on their
number too.

The keys are those of :mod:`scheduler.file_keys`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from redis import Redis

from scheduler.errors import ClientError, gib
from scheduler.file_account import FILE_OVERHEAD, bounds, count_commands, discount_commands, slip
from scheduler.file_keys import (
    BYTES_KEY,
    ENDS_KEY,
    OWNERS_KEY,
    SIZES_KEY,
    data_key,
    file_key,
    index_commands,
    lasting,
    owned_key,
)
from scheduler.round_trip import replies_of, round_trip
from scheduler.settings import Settings
from scheduler.stored_file import CHUNK_BYTES, FILE_ID, StoredFile, new_file_id, pack, read_file, unpack
from scheduler.swap import Guard, Swap, Swapper, Word

UNKEPT_SECONDS: Final = 600
"""How long chunks last of a file that is not there yet; what one that broke off left lapses."""
_PAGE: Final = 500
_LAPSED_AT_ONCE: Final = 2000


@dataclass(frozen=True, slots=True)
class FilePage:
    """A page of files, and whether there are more behind it."""

    files: tuple[StoredFile, ...]
    has_more: bool


class Files:
    """The files on one server.

    Args:
        connection: a client that answers bytes.
        settings: the bounds.
        clock: Unix seconds.
    """

    def __init__(self, connection: Redis, settings: Settings, clock: Callable[[], float]) -> None:
        self._connection, self._settings, self._clock = connection, settings, clock
        self._swap = Swapper(connection)

    def now(self) -> float:
        """Unix seconds."""
        return self._clock()

    def upload(
        self, owner: str, filename: str, size_bytes: int, read: Callable[[int], bytes], lifetime_seconds: int
    ) -> StoredFile:
        """Store a file for a batch to read.

        Args:
            owner: whose it is, as :func:`scheduler.owner.owner_of` names it.
            filename: as its sender calls it.
            size_bytes: its length.
            read: gives the next bytes, at most so many.
            lifetime_seconds: how long it is kept.

        Raises:
            ClientError: ``body_too_large``; ``storage_full``, where files take all the room they may.
        """
        most = self._settings.max_file_bytes
        if size_bytes > most:
            reason = f"the file is {gib(size_bytes)}; at most {gib(most)} are taken"
            raise ClientError("body_too_large", reason, param="file", limit_bytes=most)
        now = self._clock()
        file = StoredFile(new_file_id(now), owner, filename, "batch", size_bytes, now, now + lifetime_seconds)
        self._reserve(file)
        stored = sum(self.write(file.id, n, read(CHUNK_BYTES)) for n in range(file.chunks))
        (kept,) = self._swap(self.keep_swap(file, stored))
        if kept != 1:
            raise ClientError("storage_full", "the upload was not done in time", retry_after=1)
        return file

    def write(self, file_id: str, number: int, chunk: bytes) -> int:
        """Store a chunk of a file to be kept within ten minutes; the bytes that it takes."""
        packed, key = pack(chunk), data_key(file_id)
        pipeline = self._connection.pipeline(transaction=True)
        pipeline.hset(key, str(number), packed)
        pipeline.expire(key, UNKEPT_SECONDS)
        pipeline.execute()
        return len(packed)

    def keep_swap(self, file: StoredFile, stored_bytes: int, *guards: Guard) -> Swap:
        """The swap by which a file is there; its room was reserved where it was uploaded."""
        seconds = max(1.0, file.expires_at - self._clock())
        taken, size = FILE_OVERHEAD + stored_bytes, FILE_OVERHEAD + file.size_bytes
        reserved = Guard(("HGET", SIZES_KEY, file.id), slip(size, file.owner))
        uploaded = file.purpose == "batch"
        flat = [word for pair in file.fields().items() for word in pair]
        return Swap(
            guards=(*guards, reserved) if uploaded else guards,
            commands=(
                ("HSET", file_key(file.id), *flat),
                ("EXPIRE", file_key(file.id), math.ceil(seconds)),
                ("EXPIRE", data_key(file.id), math.ceil(seconds)),
                *index_commands(map(owned_key, (file.owner, None)), file.id, seconds),
                *count_commands(
                    file, taken, taken - size if uploaded else taken, file.expires_at, self._clock()
                ),
            ),
        )

    def get(self, file_id: str, owner: str | None) -> StoredFile:
        """A file of an owner; of anybody for None.

        Raises:
            ClientError: ``not_found``; there is none, or it is another's.
        """
        if FILE_ID.fullmatch(file_id):
            found = self._read(file_id)
            if found is not None and owner in {None, found.owner} and not found.lapsed(self._clock()):
                return found
        raise ClientError("not_found", f"no file {file_id[:64]!r}", param="id")

    def chunk(self, file_id: str, number: int) -> bytes:
        """A chunk's bytes.

        Raises:
            ClientError: ``not_found``; the file was deleted meanwhile, or lapsed.
        """
        stored = self._connection.hget(data_key(file_id), str(number))
        try:
            return unpack(stored or b"")  # type: ignore[arg-type]  # bytes
        except ValueError:
            raise ClientError("not_found", f"{file_id} is not there any more", param="id") from None

    def page(
        self,
        owner: str | None,
        *,
        limit: int,
        after: str | None = None,
        order: str = "desc",
        purpose: str = "",
    ) -> FilePage:
        """An owner's files, newest first or last.

        Args:
            owner: whose; everybody's for None.
            limit: how many at most.
            after: the last file of the page before.
            order: ``desc`` or ``asc``.
            purpose: only those; of any where empty.
        """
        found: list[StoredFile] = []
        key, ask = owned_key(owner), cast("Any", self._connection.zrevrangebylex)
        begin, end = f"({after}".encode() if after else b"+", "-"
        if order == "asc":
            ask, begin, end = self._connection.zrangebylex, f"({after}".encode() if after else b"-", "+"
        while len(found) <= limit:
            ids: Any = ask(key, begin, end, start=0, num=_PAGE)
            if not ids:
                break
            found += [file for file in self._several(key, ids) if purpose in {"", file.purpose}]
            begin = b"(" + ids[-1]
        return FilePage(tuple(found[:limit]), len(found) > limit)

    def delete(self, file: StoredFile) -> None:
        """Delete a file.

        Raises:
            ClientError: ``invalid_request``; a batch still reads it.
        """
        if not self._drop([file.id]) and self._read(file.id):
            reason = f"{file.id} is the input of a batch that has not ended; cancel that first"
            raise ClientError("invalid_request", reason, param="id")

    def hold_commands(self, file: StoredFile, seconds: float) -> Iterator[tuple[Word, ...]]:
        """A batch begins to read a file, which has to be there, for so long at most."""
        yield ("HINCRBY", file_key(file.id), "uses", 1)
        for key in (
            file_key(file.id),
            data_key(file.id),
            owned_key(file.owner),
            owned_key(None),
            SIZES_KEY,
            ENDS_KEY,
            BYTES_KEY,
            OWNERS_KEY,
        ):
            yield from lasting(key, seconds)

    def let_go_swap(self, file_id: str, *guards: Guard) -> Swap:
        """The swap by which a batch that ends reads its file no more, if that is still there."""
        there = Guard(("EXISTS", file_key(file_id)), 1)
        return Swap((*guards, there), (("HINCRBY", file_key(file_id), "uses", -1),))

    def here_guards(self, file: StoredFile) -> tuple[Guard, ...]:
        """That a file is there still, and whose it was."""
        return (
            Guard(("EXISTS", data_key(file.id) if file.chunks else file_key(file.id)), 1),
            Guard(("HGET", file_key(file.id), "owner"), file.owner),
        )

    def tidy(self) -> None:
        """Take what has lapsed out of the account, and its chunks off the server."""
        late: Any = self._connection.zrangebyscore(
            ENDS_KEY, "-inf", self._clock(), start=0, num=_LAPSED_AT_ONCE
        )
        if late:
            self._drop([entry.decode(errors="replace") for entry in late])

    def _read(self, file_id: str) -> StoredFile | None:
        fields: Any = self._connection.hgetall(file_key(file_id))
        return read_file(file_id, fields)

    def _reserve(self, file: StoredFile) -> None:
        self.tidy()
        size, bounded = FILE_OVERHEAD + file.size_bytes, bounds(self._settings, file.owner)
        commands = count_commands(file, size, size, self._clock() + UNKEPT_SECONDS, self._clock())
        (done,) = self._swap(Swap(tuple(each.guard(size) for each in bounded), tuple(commands)))
        if done != 1:
            full = bounded[-done - 1]
            raise full.refusal(size, round_trip(self._connection, [full.look])[0])

    def _several(self, key: str, ids: list[bytes]) -> list[StoredFile]:
        """Those that are there, in order; the index forgets the others."""
        pipeline = self._connection.pipeline(transaction=False)
        names = [entry.decode(errors="replace") for entry in ids]
        for name in names:
            pipeline.hgetall(file_key(name))
        replies = [fields or {} for fields in replies_of(pipeline)]
        gone = [entry for entry, fields in zip(ids, replies, strict=True) if not fields]
        if gone:
            self._connection.zrem(key, *gone)
        read = [read_file(name, fields) for name, fields in zip(names, replies, strict=True)]
        return [file for file in read if file is not None and not file.lapsed(self._clock())]

    def _drop(self, file_ids: list[str]) -> bool:
        """Forget files that no batch reads; whether all of them are forgotten now."""
        sizes: Any = self._connection.hmget(SIZES_KEY, file_ids)
        swaps = []
        for file_id, noted in zip(file_ids, sizes, strict=True):
            known = (noted or b"").decode(errors="replace")
            owner = known.partition(" ")[2]
            swaps.append(
                Swap(
                    (
                        Guard(("HGET", file_key(file_id), "uses"), 0, "<="),
                        Guard(("HGET", SIZES_KEY, file_id), noted or ""),
                    ),
                    (
                        ("DEL", file_key(file_id), data_key(file_id)),
                        *(("ZREM", owned_key(each), file_id) for each in (owner, None)),
                        *discount_commands(file_id, known),
                    ),
                )
            )
        return set(self._swap(*swaps)) <= {1}
