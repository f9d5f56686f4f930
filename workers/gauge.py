"""What the host and the device have: the limits that a budget is made from. All in bytes.

Each source is a function of its own, so that a test can give recorded values where there is no such
host; :func:`derive_budget` is pure.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import psutil

HOST_RESERVE_BYTES: Final = 2 << 30
"""Left to the system and to other programs on a machine with unified memory."""

_DEVICE_SHARE: Final = 0.9
_HOST_SHARE: Final = 0.85


def read_limits() -> dict[str, int]:
    """Every limit that can be read here, by name."""
    limits: dict[str, int] = {}
    memory = psutil.virtual_memory()
    if mx.metal.is_available():
        limits |= metal_limits(mx.device_info(), memory.total, memory.available)
    elif _cuda():
        limits |= cuda_limits(mx.device_info())
    else:
        reserve = min(HOST_RESERVE_BYTES, memory.total // 8)
        limits["host_total"] = memory.total - reserve
        limits["host_available"] = int(memory.available * _HOST_SHARE)
        limits |= cgroup_limits(Path("/sys/fs/cgroup"))
    return limits


def metal_limits(device: dict[str, Any], total_bytes: int, available_bytes: int) -> dict[str, int]:
    """A Mac's: RAM less a reserve, Metal's recommended working set, what the system could give up now."""
    limits = {
        "host_total": total_bytes - min(HOST_RESERVE_BYTES, total_bytes // 8),
        "host_available": int(available_bytes * _HOST_SHARE),
    }
    recommended = device.get("max_recommended_working_set_size")
    if recommended:
        limits["metal_working_set"] = int(recommended * _DEVICE_SHARE)
    return limits


def cuda_limits(device: dict[str, Any]) -> dict[str, int]:
    """A CUDA device's memory: free where MLX says so, else all of it."""
    memory = device.get("free_memory") or device.get("total_memory") or device.get("memory_size")
    return {"cuda_memory": int(memory * _DEVICE_SHARE)} if memory else {}


def cgroup_limits(root: Path) -> dict[str, int]:
    """Linux cgroup v2: the limit of this process's group, less what the group already uses."""
    if not sys.platform.startswith("linux"):
        return {}
    try:
        limit = (root / "memory.max").read_text().strip()
        current = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return {}
    return {"cgroup": max(0, int(limit) - current)} if limit.isdigit() else {}


def derive_budget(limits: dict[str, int], setting: int | None) -> tuple[int, str]:
    """The budget, and the name of the limit that binds; an operator's setting beats what was read."""
    if setting is not None:
        return setting, "TIDEGATE_MEMORY_BUDGET"
    source = min(limits, key=lambda name: limits[name])
    return limits[source], source


def device_name() -> str:
    """What MLX computes on, e.g. ``metal: Apple M2``."""
    kind = "metal" if mx.metal.is_available() else "cuda" if _cuda() else "cpu"
    return f"{kind}: {mx.device_info().get('device_name', 'unknown')}"


def _cuda() -> bool:
    return bool(getattr(mx, "cuda", None) and mx.cuda.is_available())
