"""The account of what files take: of all, and of each owner. Pure; the keys are those of :mod:`scheduler.file_keys`.

Each file counts a little more than its chunks, so that a bound on bytes is one on their number too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from scheduler.errors import ClientError, gib
from scheduler.file_keys import BYTES_KEY, ENDS_KEY, OWNERS_KEY, SIZES_KEY, lasting
from scheduler.settings import Settings
from scheduler.slip import counted
from scheduler.stored_file import StoredFile
from scheduler.swap import Guard, Word

FILE_OVERHEAD: Final = 1024


@dataclass(frozen=True, slots=True)
class Bound:
    """What files may take together: the most, what tells how much they take, and whose files they are."""

    most: int
    look: tuple[Word, ...]
    whose: str = ""

    def guard(self, size_bytes: int) -> Guard:
        """That there is room for so many more."""
        return Guard(self.look, self.most - size_bytes, "<=")

    def refusal(self, size_bytes: int, taken: object) -> ClientError:
        """That there is not."""
        return ClientError(
            "storage_full",
            f"the file needs {gib(size_bytes)} of room; {gib(counted(taken))} of {gib(self.most)} are taken by "
            f"files{self.whose}: delete some",
            retry_after=120,
            limit_bytes=self.most,
        )


def bounds(settings: Settings, owner: str) -> list[Bound]:
    """What holds for a new file of an owner."""
    found = [Bound(settings.max_files_bytes, ("GET", BYTES_KEY))]
    if settings.max_files_bytes_per_key is not None:
        look = ("ZSCORE", OWNERS_KEY, owner)
        found.append(Bound(settings.max_files_bytes_per_key, look, " of this API key"))
    return found


def slip(size_bytes: int, owner: str) -> str:
    """What is noted of a file."""
    return f"{size_bytes} {owner}"


def count_commands(
    file: StoredFile, taken: int, more: int, ends_at: float, now_seconds: float
) -> Iterator[tuple[Word, ...]]:
    """A file takes so many bytes, so many more than before."""
    yield ("HSET", SIZES_KEY, file.id, slip(taken, file.owner))
    yield ("ZADD", ENDS_KEY, math.ceil(ends_at), file.id)
    yield ("INCRBY", BYTES_KEY, more)
    yield ("ZINCRBY", OWNERS_KEY, more, file.owner)
    for key in (SIZES_KEY, ENDS_KEY, BYTES_KEY, OWNERS_KEY):
        yield from lasting(key, ends_at - now_seconds)


def discount_commands(file_id: str, noted: str) -> Iterator[tuple[Word, ...]]:
    """A file takes nothing more; ``noted`` is its slip, '' where there is none."""
    yield ("HDEL", SIZES_KEY, file_id)
    yield ("ZREM", ENDS_KEY, file_id)
    if noted:
        size, _, owner = noted.partition(" ")
        yield ("DECRBY", BYTES_KEY, counted(size))
        yield ("ZINCRBY", OWNERS_KEY, -counted(size), owner)
        yield ("ZREMRANGEBYSCORE", OWNERS_KEY, "-inf", 0)
