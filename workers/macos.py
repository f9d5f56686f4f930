"""What macOS tells of memory, asked of libSystem: nothing anywhere else.

Sources: ``sysctlbyname(3)``; XNU's ``bsd/kern/kern_memorystatus_notify.c`` (``kern.memorystatus_vm_pressure_level``) and
``osfmk/vm`` (``vm.page_purgeable_count``); ``proc_pid_rusage`` and ``struct rusage_info_v0`` in ``sys/resource.h``.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import os
import struct
import sys
from typing import Any, Final

_FOOTPRINT_AT: Final = 72
"""Of ``ri_phys_footprint`` in ``struct rusage_info_v0``: behind a UUID and seven numbers of 64 bits."""

_RUSAGE_BYTES: Final = 512
"""More than any version of the structure takes."""


class Level(enum.IntEnum):
    """How pressed the kernel says that it is, by its own numbers."""

    NORMAL = 1
    WARN = 2
    CRITICAL = 4


@functools.cache
def _system() -> Any:
    """The C library of a Mac; None elsewhere."""
    return ctypes.CDLL("/usr/lib/libSystem.B.dylib", use_errno=True) if sys.platform == "darwin" else None


def sysctl_number(name: str, system: Any = None) -> int | None:
    """A number of 32 or 64 bits that ``sysctl NAME`` prints; None where there is none.

    Args:
        name: of the number.
        system: the C library; this Mac's where None.
    """
    library = system or _system()
    if library is None:
        return None
    value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
    failed = library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return None if failed or size.value not in {4, 8} else value.value


def pressure_level(system: Any = None) -> Level:
    """The kernel's own word on memory; normal where it says nothing, or something new."""
    told = sysctl_number("kern.memorystatus_vm_pressure_level", system)
    return next((level for level in Level if level == told), Level.NORMAL)


def purgeable_bytes(page_bytes: int, system: Any = None) -> int:
    """What programs have marked as theirs to lose: the kernel takes it before it compresses or swaps."""
    return (sysctl_number("vm.page_purgeable_count", system) or 0) * page_bytes


def footprint_bytes(system: Any = None) -> int | None:
    """This process's ``phys_footprint``, by which macOS judges it: Metal's buffers and what is compressed count."""
    library = system or _system()
    if library is None:
        return None
    told = ctypes.create_string_buffer(_RUSAGE_BYTES)
    if library.proc_pid_rusage(os.getpid(), 0, told):
        return None
    (footprint,) = struct.unpack_from("=Q", told, _FOOTPRINT_AT)
    return int(footprint)
