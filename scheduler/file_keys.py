"""The names of what the server keeps of files, and what goes with any of many that lapse.

Keys, all of which lapse with the last file that they are about::

    tidegate:file:{file}       hash; the fields of :class:`~scheduler.stored_file.StoredFile`
    tidegate:file:{file}:data  hash; number of a chunk, from 0 -> its bytes, compressed by zlib
    tidegate:files:of:{owner}  sorted set; an owner's files, whose order is that of creation
    tidegate:files:all         sorted set; everybody's, likewise
    tidegate:files:sizes       hash; file -> ``bytes owner``: what it takes, and whose it is
    tidegate:files:ends        sorted set; file -> Unix seconds, whole, from which on it may be gone
    tidegate:files:bytes       string; the sum of all that files take
    tidegate:files:owners      sorted set; owner -> the sum of what its files take
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from scheduler.swap import Word

SIZES_KEY: Final = "tidegate:files:sizes"
ENDS_KEY: Final = "tidegate:files:ends"
BYTES_KEY: Final = "tidegate:files:bytes"
OWNERS_KEY: Final = "tidegate:files:owners"


def file_key(file_id: str) -> str:
    """A file's fields."""
    return f"tidegate:file:{file_id}"


def data_key(file_id: str) -> str:
    """A file's chunks."""
    return f"tidegate:file:{file_id}:data"


def owned_key(owner: str | None) -> str:
    """An owner's files; everybody's for None."""
    return "tidegate:files:all" if owner is None else f"tidegate:files:of:{owner}"


def lasting(key: str, seconds: float) -> Iterator[tuple[Word, ...]]:
    """The commands that let a key of many live as long as the longest of them."""
    for condition in ("NX", "GT"):  # GT alone takes a key that does not lapse for one that lives longest
        yield ("EXPIRE", key, math.ceil(seconds), condition)


def index_commands(keys: Iterable[str], name: str, seconds: float) -> Iterator[tuple[Word, ...]]:
    """The commands that put a name into sorted sets, in the order of names, for so long at least."""
    for key in keys:
        yield ("ZADD", key, 0, name)
        yield from lasting(key, seconds)
