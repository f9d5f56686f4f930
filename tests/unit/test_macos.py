"""What macOS would tell, recorded; and that nothing is asked where there is no Mac."""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any

import pytest

from workers.macos import Level, footprint_bytes, pressure_level, purgeable_bytes, sysctl_number


class System:
    """A Mac's C library, which knows a few numbers: each with its bytes."""

    def __init__(self, footprint: int | None = None, **numbers: bytes) -> None:
        self.numbers = {name.replace("__", "."): told for name, told in numbers.items()}
        self.footprint = footprint

    def sysctlbyname(self, name: bytes, value: Any, size: Any, new: None, new_size: int) -> int:
        told = self.numbers.get(name.decode())
        if told is None or len(told) > size._obj.value:
            return -1
        ctypes.memmove(ctypes.addressof(value._obj), told, len(told))
        size._obj.value = len(told)
        return 0

    def proc_pid_rusage(self, pid: int, flavor: int, told: Any) -> int:
        assert pid > 0 == flavor
        if self.footprint is None:
            return -1
        # struct rusage_info_v0: a UUID; user and system time, two kinds of wakeups, pageins, wired, resident,
        # phys_footprint; start and exit
        told[:96] = b"u" * 16 + struct.pack("=10Q", 1, 2, 3, 4, 5, 6, 7, self.footprint, 9, 10)
        return 0


@pytest.mark.parametrize(
    ("told", "level"),
    [
        (1, Level.NORMAL),
        (2, Level.WARN),
        (4, Level.CRITICAL),
        (0, Level.NORMAL),
        (3, Level.NORMAL),
        (99, Level.NORMAL),
    ],
)
def test_the_kernels_level_is_its_own_number(told: int, level: Level) -> None:
    """1, 2 and 4; what it does not say today is no pressure."""
    number = struct.pack("=I", told)
    assert pressure_level(System(kern__memorystatus_vm_pressure_level=number)) is level


def test_a_number_may_have_32_or_64_bits_or_not_be_there() -> None:
    """Other sizes are no number."""
    system = System(a=struct.pack("=I", 7), b=struct.pack("=Q", 1 << 40), c=b"ab")
    assert [sysctl_number(name, system) for name in "abcd"] == [7, 1 << 40, None, None]
    assert pressure_level(system) is Level.NORMAL
    assert purgeable_bytes(16384, system) == 0


def test_purgeable_pages_are_counted_in_bytes() -> None:
    """The kernel counts pages."""
    assert purgeable_bytes(16384, System(vm__page_purgeable_count=struct.pack("=I", 1000))) == 16_384_000


def test_a_footprint_is_read_out_of_the_kernels_structure() -> None:
    """The eighth number behind the UUID; nothing where the call fails."""
    assert footprint_bytes(System(footprint=12_345_678_901)) == 12_345_678_901
    assert footprint_bytes(System()) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="here there is a Mac")
def test_without_a_mac_nothing_is_told() -> None:
    """And nothing is pressed."""
    assert sysctl_number("vm.page_purgeable_count") is None
    assert (pressure_level(), purgeable_bytes(4096), footprint_bytes()) == (Level.NORMAL, 0, None)


@pytest.mark.metal
def test_a_real_mac_tells() -> None:
    """A level of its own, and a footprint of at least an interpreter's size."""
    assert sysctl_number("kern.memorystatus_vm_pressure_level") in {1, 2, 4}
    assert sysctl_number("vm.page_purgeable_count") is not None
    assert (footprint_bytes() or 0) > 5 << 20
