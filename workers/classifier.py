"""What a failure was: one table from what MLX says, or from how its process died, to a fault.

Texts are those of MLX's sources up to 0.32.4; the second column says where each is raised. The first
row that matches decides, so the particular stands before the general.
"""

from __future__ import annotations

import re
import signal
from typing import Final

from scheduler.blame import Fault

_TEXTS: Final[tuple[tuple[str, str, Fault], ...]] = (
    (r"greater than the maximum allowed buffer size", "backend/metal/allocator.cpp", Fault.BUFFER_TOO_LARGE),
    (r"\[metal::malloc\] Resource limit", "backend/metal/allocator.cpp", Fault.RESOURCE_LIMIT),
    (
        r"kIOGPUCommandBufferCallbackErrorOutOfMemory|Insufficient Memory",
        "Metal's callback",
        Fault.OUT_OF_MEMORY,
    ),
    (r"InnocentVictim", "Metal's callback", Fault.VICTIM),
    (r"SubmissionsIgnored", "Metal's callback", Fault.VICTIM),
    (r"CallbackErrorTimeout|CallbackErrorHang|ImpactingInteractivity", "Metal's callback", Fault.GPU_TIMEOUT),
    (r"PageFault", "Metal's callback", Fault.BUG),
    (r"\[malloc(_or_wait)?\] Unable to allocate", "backend/common, cpu allocator", Fault.OUT_OF_MEMORY),
    (r"\[metal::malloc\].*[Uu]nable to allocate", "backend/metal/allocator.cpp", Fault.OUT_OF_MEMORY),
    (
        r"\bcu[a-zA-Z]+.* failed: out of memory|cudaErrorMemoryAllocation",
        "backend/cuda/utils.cpp",
        Fault.OUT_OF_MEMORY,
    ),
    (r"CUDA.*out of memory|CUBLAS_STATUS_ALLOC_FAILED", "backend/cuda", Fault.OUT_OF_MEMORY),
    (
        r"std::bad_alloc|MemoryError|Cannot allocate memory|Resource temporarily unavailable",
        "the C++ and Python runtimes",
        Fault.OUT_OF_MEMORY,
    ),
)


def classify_text(text: str) -> Fault:
    """The fault behind an exception's type and text, or a process's last words."""
    for pattern, _, fault in _TEXTS:
        if re.search(pattern, text):
            return fault
    return Fault.BUG


_SUSPECT: Final = frozenset({Fault.RESOURCE_LIMIT, Fault.VICTIM, Fault.GPU_TIMEOUT})


def is_suspect(fault: Fault, text: str) -> bool:
    """Whether a process in which this was raised is not to be trusted with the next job.

    After a command buffer failed, Metal may ignore what the process submits later.
    """
    return fault in _SUSPECT or "Command buffer execution failed" in text


def classify_death(
    exit_code: int, last_words: str, active_bytes: int, budget_bytes: int, *, cpu: bool, limited: bool = False
) -> Fault:
    """The fault behind an engine's death.

    Args:
        exit_code: as :mod:`subprocess` gives it; minus the signal where one killed it.
        last_words: the tail of its stderr.
        active_bytes: the account that it kept: what it last said it used, and was about to add.
        budget_bytes: its budget.
        cpu: whether it computed on MLX's CPU build, whose failed allocation is a segmentation fault.
        limited: whether its address space was limited, which stacks and arenas fill before the account.
    """
    told = classify_text(last_words)
    if told is not Fault.BUG:
        return told
    if exit_code == -signal.SIGSEGV and cpu and (limited or active_bytes >= budget_bytes // 2):
        return Fault.OUT_OF_MEMORY
    if exit_code == -signal.SIGKILL:  # as Linux's out-of-memory killer and macOS's jetsam do
        return Fault.OUT_OF_MEMORY
    return Fault.BUG
