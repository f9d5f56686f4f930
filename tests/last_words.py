"""How engines end, in MLX's own words: raised, or their process's last, or none."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from scheduler.blame import Fault

_METAL: Final = "[METAL] Command buffer execution failed: "
_CALLBACK: Final = "kIOGPUCommandBufferCallbackError"
_ABORTS: Final = "libc++abi: terminating due to uncaught exception of type std::runtime_error: "
_NO_MEMORY: Final = f"{_METAL}Insufficient Memory (00000008:{_CALLBACK}OutOfMemory)"
_TIMEOUT: Final = f"{_METAL}Caused GPU Timeout Error (00000002:{_CALLBACK}Timeout)"
_HANG: Final = f"{_METAL}Caused GPU Hang Error (00000003:{_CALLBACK}Hang)"
_VICTIM: Final = f"{_METAL}Discarded (victim of GPU error/recovery) (00000005:{_CALLBACK}InnocentVictim)"


@dataclass(frozen=True)
class End:
    """How an engine's step ends: raised where there is no exit code, and nothing at all where it is silent.

    ``fault`` is what it truly was.
    """

    fault: Fault
    words: str = ""
    exit_code: int | None = None
    silent: bool = False


def _raised(fault: Fault, words: str) -> End:
    return End(fault, f"RuntimeError: {words}")


def _aborted(fault: Fault, words: str) -> End:
    return End(fault, f"{_ABORTS}{words}\n", -signal.SIGABRT)


KILLED: Final = End(Fault.OUT_OF_MEMORY, exit_code=-signal.SIGKILL)
"""By Linux's killer, or macOS's jetsam."""

RUNS_OUT: Final = {
    "cpu": (
        End(Fault.OUT_OF_MEMORY, exit_code=-signal.SIGSEGV),
        KILLED,
        _raised(Fault.OUT_OF_MEMORY, "[malloc_or_wait] Unable to allocate 9000000000 bytes."),
        End(Fault.OUT_OF_MEMORY, "MemoryError: std::bad_alloc"),
        _aborted(Fault.OUT_OF_MEMORY, "std::bad_alloc"),
    ),
    "metal": (
        _aborted(Fault.OUT_OF_MEMORY, _NO_MEMORY),
        _raised(Fault.OUT_OF_MEMORY, _NO_MEMORY),
        _raised(Fault.OUT_OF_MEMORY, "[metal::malloc] Unable to allocate 8589934592 bytes."),
        KILLED,
    ),
    "cuda": (
        _raised(Fault.OUT_OF_MEMORY, "cudaMallocAsync(&data, size, stream) failed: out of memory"),
        _raised(Fault.OUT_OF_MEMORY, "cudaGraphLaunch(exec, stream) failed: out of memory"),
        _raised(Fault.OUT_OF_MEMORY, "cublasLtCreate(&handle) failed: CUBLAS_STATUS_ALLOC_FAILED"),
        KILLED,
    ),
}
"""How memory that ran out shows, by device."""

IGNORED: Final = _raised(
    Fault.VICTIM,
    f"{_METAL}Ignored (for causing prior/excessive GPU errors) (00000004:{_CALLBACK}SubmissionsIgnored)",
)
RESOURCES: Final = _raised(Fault.RESOURCE_LIMIT, "[metal::malloc] Resource limit (499000) exceeded.")
TOO_LARGE: Final = _raised(
    Fault.BUFFER_TOO_LARGE,
    "[metal::malloc] Attempting to allocate 137438953472 bytes which is greater than the maximum allowed"
    " buffer size of 77309411328 bytes.",
)
POISON: Final = _aborted(Fault.BUG, "[scatter] Index out of range.")
BUGGY: Final = End(Fault.BUG, "ValueError: [reshape] Cannot reshape array of size 6 into shape (4,2).")
HUNG: Final = End(Fault.GPU_TIMEOUT, silent=True)

TROUBLES: Final = {
    "killed": KILLED,
    "resources": RESOURCES,
    "hung": HUNG,
    "ignored": IGNORED,
    "victim": _raised(Fault.VICTIM, _VICTIM),
    "victim died": _aborted(Fault.VICTIM, _VICTIM),
    "timeout": _raised(Fault.GPU_TIMEOUT, _TIMEOUT),
    "timeout died": _aborted(Fault.GPU_TIMEOUT, _TIMEOUT),
    "hang": _raised(Fault.GPU_TIMEOUT, _HANG),
}
"""What befalls an engine through no job's fault."""
