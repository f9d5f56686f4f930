"""What a failure was: one table from what MLX says, or how its process died, to a fault and what cures it.

The first row that matches decides, so the particular stands before the general. Whom a fault is laid to is one
more column, kept with the faults (:attr:`scheduler.blame.Fault.blame`); what then becomes of a job is
:func:`scheduler.blame.judge_failure`. Sources are those of MLX up to 0.32.4 and of what it is linked with.
"""

from __future__ import annotations

import enum
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scheduler.blame import Fault


class Recovery(enum.StrEnum):
    """What makes the engine fit for the next job."""

    FRESH_BATCH = "fresh batch"
    """Everything is freed in the same process; a batch that raised is never used again."""
    NEW_PROCESS = "new process"


@dataclass(frozen=True, slots=True)
class Known:
    """A row: what is seen, who says it, what it is, and what cures it."""

    pattern: str
    source: str
    fault: Fault
    recovery: Recovery


_FRESH, _NEW = Recovery.FRESH_BATCH, Recovery.NEW_PROCESS
_ALLOCATOR = "backend/metal/allocator.cpp"
_HANDLER = "Metal's driver, through check_error in backend/metal/eval.cpp"
_CUDA = "cudaGetErrorString, through check_cuda_error in backend/cuda/utils.cpp"
_BLAS = "OpenBLAS, which MLX's CPU build computes with"

TEXTS: Final = (
    # Memory that MLX asked for itself: it raises before anything is computed.
    Known(r"greater than the maximum allowed buffer size", _ALLOCATOR, Fault.BUFFER_TOO_LARGE, _FRESH),
    Known(r"\[metal::malloc\] Resource limit", _ALLOCATOR, Fault.RESOURCE_LIMIT, _NEW),  # a count of buffers
    Known(r"\[metal::malloc\].*[Uu]nable to allocate", _ALLOCATOR, Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"\[malloc(_or_wait)?\] Unable to allocate", "allocator.cpp", Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"\[malloc_async\] Unable to allocate", "backend/cuda/allocator.cpp", Fault.OUT_OF_MEMORY, _FRESH),
    # Metal's driver, by its words, its name or its number (IOGPU; IOAccel on Intel). After any of these it may
    # ignore what the process submits later, so only a new one is trusted.
    Known(r"Insufficient Memory|CallbackErrorOutOfMemory|\(00000008:", _HANDLER, Fault.OUT_OF_MEMORY, _NEW),
    Known(r"CallbackErrorInnocentVictim|\(00000005:", _HANDLER, Fault.VICTIM, _NEW),
    Known(r"CallbackErrorSubmissionsIgnored|\(00000004:", _HANDLER, Fault.VICTIM, _NEW),  # for earlier faults
    Known(r"CallbackError(AccessRevoked|Blacklisted)", _HANDLER, Fault.VICTIM, _NEW),  # for earlier hangs
    Known(r"Insufficient Permission|CallbackError\w*NotPermitted|\(00000006:", _HANDLER, Fault.VICTIM, _NEW),
    Known(r"CallbackErrorDeviceRemoved", _HANDLER, Fault.VICTIM, _NEW),
    Known(r"GPU Timeout Error|CallbackErrorTimeout|\(00000002:", _HANDLER, Fault.GPU_TIMEOUT, _NEW),
    Known(r"GPU Hang Error|CallbackErrorHang|\(00000003:", _HANDLER, Fault.GPU_TIMEOUT, _NEW),
    Known(r"ImpactingInteractivity", _HANDLER, Fault.GPU_TIMEOUT, _NEW),
    Known(r"\(0000000e:", "the same code under its earlier name, mlx#1335", Fault.GPU_TIMEOUT, _NEW),
    Known(r"CallbackErrorMemoryless", _HANDLER, Fault.RESOURCE_LIMIT, _NEW),
    Known(r"CallbackError(PageFault|InvalidResource|InvalidInput)", _HANDLER, Fault.BUG, _NEW),
    Known(r"CallbackError(ProtectionViolation|StackOverflow)", _HANDLER, Fault.BUG, _NEW),
    Known(r"Command buffer execution failed", _HANDLER, Fault.BUG, _NEW),  # of which nothing more is known
    Known(r"\[Event::wait\] Timed out", "backend/metal/event.cpp", Fault.GPU_TIMEOUT, _NEW),
    Known(r"Unable to create new command buffer", "backend/metal/device.cpp", Fault.RESOURCE_LIMIT, _NEW),
    Known(r"Failed to make new command queue", "backend/metal/device.cpp", Fault.RESOURCE_LIMIT, _NEW),
    # CUDA. What a kernel did wrong stays with the context: every later call fails alike.
    Known(r"\bcu\w+.* failed: out of memory|cudaErrorMemoryAllocation", _CUDA, Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"CUDA.*out of memory|NVRTC_ERROR_OUT_OF_MEMORY", "CUDA's libraries", Fault.OUT_OF_MEMORY, _FRESH),
    Known(
        r"\bcublas\w+\(.*failed with code: 3\.",  # CUBLAS_STATUS_ALLOC_FAILED
        "check_cublas_error, backend/cuda/gemms",
        Fault.OUT_OF_MEMORY,
        _FRESH,
    ),
    Known(r"CU(BLAS|DNN|SOLVER)_STATUS_\w*ALLOC\w*_FAILED", "CUDA's libraries", Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"the launch timed out and was terminated", _CUDA, Fault.GPU_TIMEOUT, _NEW),
    Known(r"uncorrectable (ECC|NVLink) error|busy or unavailable", _CUDA, Fault.VICTIM, _NEW),
    Known(
        r"an illegal (memory access|instruction) was encountered|unspecified launch failure|cudaErrorIllegalAddress"
        r"|misaligned address|device-side assert|hardware stack error|invalid program counter",
        _CUDA,
        Fault.BUG,
        _NEW,
    ),
    # The host's libraries: threads that cannot be started lack an address space for their stacks.
    Known(r"OpenBLAS: malloc failed|Memory allocation still failed", _BLAS, Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"tried to allocate too many memory regions", _BLAS, Fault.RESOURCE_LIMIT, _NEW),
    Known(r"Out of memory allocating \d+ bytes", "libgomp", Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"std::bad_alloc", "the C++ runtime", Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"MemoryError\b", "Python, and numpy's _ArrayMemoryError", Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"Cannot allocate memory", "strerror(ENOMEM)", Fault.OUT_OF_MEMORY, _FRESH),
    Known(r"BlockingIOError", "Python, of a pipe that is full", Fault.BUG, _FRESH),
    Known(r"Resource temporarily unavailable", "strerror(EAGAIN)", Fault.OUT_OF_MEMORY, _FRESH),
)
"""Texts of exceptions, with their types, and last lines of a process's stderr."""

OTHER: Final = Known("", "anywhere", Fault.BUG, _FRESH)
"""What no row knows: a plain error, such as a ``ValueError`` or an ``OverflowError`` for a shape."""

SIGNALS: Final[Mapping[int, Known]] = {
    signal.SIGKILL: Known(
        "SIGKILL",
        # An operator's own `kill -9` looks just the same, and is taken for memory too: that costs the worker some
        # of its budget for a while, where the opposite would start the same jobs into the same wall.
        "Linux's out-of-memory killer, macOS's jetsam",
        Fault.OUT_OF_MEMORY,
        _NEW,
    ),
    signal.SIGTERM: Known("SIGTERM", "somebody who ends processes", Fault.VICTIM, _NEW),
    signal.SIGINT: Known("SIGINT", "somebody at a keyboard", Fault.VICTIM, _NEW),
    signal.SIGHUP: Known("SIGHUP", "a terminal that went", Fault.VICTIM, _NEW),
}
"""Signals that tell by themselves; SIGABRT, SIGBUS, SIGILL, SIGFPE, SIGSYS, SIGTRAP without words are bugs."""

_SHELL_SIGNAL: Final = 128
"""What shells, and launchers written like them, add to the number of the signal that ended their child."""


def classify_text(text: str) -> Known:
    """The row for an exception's type and text."""
    return next((row for row in TEXTS if re.search(row.pattern, text)), OTHER)


_BUFFER: Final = re.compile(
    r"allocate (\d+) bytes which is greater than the maximum allowed buffer size of (\d+)"
)


def buffer_sizes(text: str) -> tuple[int, int]:
    """What was asked for and what the device takes at most, in bytes, as Metal's allocator says it; else zeros."""
    found = _BUFFER.search(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def classify_death(
    exit_code: int, last_words: str, active_bytes: int, budget_bytes: int, *, cpu: bool, limited: bool = False
) -> Fault:
    """The fault behind an engine's death; what cures it is a new process, in every case.

    Whoever ends processes by a signal that asks says so by that. Else its last words come first, and of those the
    last line that is known: an earlier one was survived. But what says no more than that something was wrong before
    gives way to what that was.

    Args:
        exit_code: as :mod:`subprocess` gives it; minus the signal where one killed it, or 128 and the signal.
        last_words: the tail of its stderr.
        active_bytes: the account that it kept: what it last said it used, and was about to add.
        budget_bytes: its budget.
        cpu: whether it computed on MLX's CPU build, whose failed allocation is a segmentation fault since 0.30.1
            (``CommonAllocator::malloc``, backend/no_gpu/allocator.cpp); only the account tells it from a bug.
        limited: whether its address space was limited, which stacks and arenas fill before the account.
    """
    killed_by = exit_code - _SHELL_SIGNAL if exit_code > _SHELL_SIGNAL else -exit_code
    by_signal = SIGNALS.get(killed_by, OTHER).fault
    if by_signal is Fault.VICTIM:
        return by_signal
    told = [row for line in reversed(last_words.splitlines()) if (row := classify_text(line)) is not OTHER]
    if told:
        return next((row for row in told if row.fault is not Fault.VICTIM), told[0]).fault
    if killed_by == signal.SIGSEGV and cpu and (limited or active_bytes >= budget_bytes // 2):
        return Fault.OUT_OF_MEMORY
    return by_signal


def exit_name(exit_code: int) -> str:
    """``SIGKILL``, or ``exit code 3``."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
