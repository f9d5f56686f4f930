"""Why a job waits again: what the ``reason`` of a ``requeued`` event says, and nothing else."""

from __future__ import annotations

import enum
from typing import Final


class Reason(enum.StrEnum):
    """One word for each; those from ``out_of_memory`` on are what a failed attempt was taken for."""

    MEMORY = "memory"
    PREEMPTED = "preempted"
    LARGER_THAN_ESTIMATED = "larger_than_estimated"
    LARGER_THAN_BUDGET = "larger_than_budget"
    WORKER_STOPPED = "worker_stopped"
    WORKER_LOST = "worker_lost"
    ENGINE_LOST = "engine_lost"
    OUT_OF_MEMORY = "out_of_memory"
    RESOURCE_LIMIT = "resource_limit"
    BUFFER_TOO_LARGE = "buffer_too_large"
    GPU_TIMEOUT = "gpu_timeout"
    VICTIM = "victim"
    BUG = "bug"


REASONS: Final = {
    Reason.MEMORY: "Memory ran short, and this was the youngest job of the lowest class.",
    Reason.PREEMPTED: "An interactive job needed its room.",
    Reason.LARGER_THAN_ESTIMATED: "Its prompt was counted, and it needs more memory than is free there now.",
    Reason.LARGER_THAN_BUDGET: "Its prompt was counted, and it needs more memory than its worker may use.",
    Reason.WORKER_STOPPED: "Its worker was told to stop.",
    Reason.WORKER_LOST: "Its worker fell silent.",
    Reason.ENGINE_LOST: "The engine was replaced while others were computed, or nothing was.",
    Reason.OUT_OF_MEMORY: "Memory ran out while it was computed, alone or with others.",
    Reason.RESOURCE_LIMIT: "The device ran out of something else that it counts, such as buffers.",
    Reason.BUFFER_TOO_LARGE: "A buffer was asked for that is larger than the device takes.",
    Reason.GPU_TIMEOUT: "The engine made no progress in time.",
    Reason.VICTIM: "Another process, or an earlier job's failure, stopped the engine.",
    Reason.BUG: "The engine failed, or ended, for no reason that is known.",
}
"""What each means."""
