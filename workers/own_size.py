"""What this process takes by the kernel's count, which is more than MLX's where others allocate beside it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import resource
import sys
from typing import Final

import psutil

from workers import macos

_SPACE_SHARE: Final = 0.9
"""Of the address space that is left: the rest is for threads' stacks, and for what freeing leaves in pieces."""


def footprint_bytes() -> int:
    """What the kernel holds against this process: a Mac's ``phys_footprint``, elsewhere the resident set."""
    footprint = macos.footprint_bytes()
    return _self().memory_info().rss if footprint is None else footprint


@functools.cache
def _self() -> psutil.Process:
    return psutil.Process()


def address_space_limits(own_bytes: int) -> dict[str, int]:
    """What a limit on this process's address space (``ulimit -v``) leaves; nothing where there is none.

    Past it MLX's CPU build dies of a segmentation fault. Only Linux keeps to such a limit.

    Args:
        own_bytes: what MLX holds of it.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or not sys.platform.startswith("linux"):
        return {}
    return space_left(limit, _self().memory_info().vms, own_bytes)


def space_left(limit_bytes: int, taken_bytes: int, own_bytes: int) -> dict[str, int]:
    """An address space's limit less what is taken in it by others than MLX, and a share for what is yet to come."""
    others_bytes = max(0, taken_bytes - own_bytes)
    return {"address_space": int(max(0, limit_bytes - others_bytes) * _SPACE_SHARE)}


def give_back() -> None:
    """Return to the system what the C library keeps of freed memory; glibc alone keeps much."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
