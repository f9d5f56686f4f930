"""What the host and the device have: the limits that a budget is made from. All in bytes.

Each source is a function of its own, so that a test can give recorded values where there is no such
host; :func:`derive_budget` is pure.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import psutil

HOST_RESERVE_BYTES: Final = 2 << 30
"""Left to the system and to other programs on a machine with unified memory."""

_DEVICE_SHARE: Final = 0.9
_HOST_SHARE: Final = 0.85


def read_limits(own_bytes: int = 0) -> dict[str, int]:
    """Every limit that can be read here, by name.

    Args:
        own_bytes: what this process holds already; it counts as available.
    """
    limits: dict[str, int] = {}
    memory = psutil.virtual_memory()
    if mx.metal.is_available():
        limits |= metal_limits(mx.device_info(), memory.total, memory.available + own_bytes)
    elif _cuda():
        limits |= cuda_limits(mx.device_info(), own_bytes)
    else:
        reserve = min(HOST_RESERVE_BYTES, memory.total // 8)
        limits["host_total"] = memory.total - reserve
        limits["host_available"] = int((memory.available + own_bytes) * _HOST_SHARE)
        limits |= cgroup_limits(Path("/sys/fs/cgroup"), own_bytes)
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


def cuda_limits(device: dict[str, Any], own_bytes: int = 0) -> dict[str, int]:
    """A CUDA device's memory: all of it, and where MLX says so, what is free."""
    limits = {}
    total, free = device.get("total_memory") or device.get("memory_size"), device.get("free_memory")
    if total:
        limits["cuda_total"] = int(total * _DEVICE_SHARE)
    if free:
        limits["cuda_available"] = int((free + own_bytes) * _DEVICE_SHARE)
    return limits


def cgroup_limits(root: Path, own_bytes: int = 0) -> dict[str, int]:
    """Linux cgroup v2: the limit of this process's group, and that less what the group uses.

    Pages of files that were not used lately count as unused: the kernel gives them back first.
    """
    if not sys.platform.startswith("linux"):
        return {}
    try:
        limit = (root / "memory.max").read_text().strip()
        current = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return {}
    if not limit.isdigit():
        return {}
    used = max(0, current - _inactive_file(root) - own_bytes)
    return {"cgroup_total": int(limit), "cgroup_available": max(0, int(limit) - used)}


def _inactive_file(root: Path) -> int:
    try:
        fields = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return int(fields.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0


def steady_budget(limits: dict[str, int], setting: int | None) -> tuple[int, str]:
    """What could be had if nothing else ran here, and the limit's name: no passing pressure changes it.

    A job that does not fit even this never fits; one that does may have to wait.
    """
    steady = {name: limit for name, limit in limits.items() if not name.endswith("_available")}
    return derive_budget(steady or limits, setting)


def derive_budget(limits: dict[str, int], setting: int | None) -> tuple[int, str]:
    """The budget, and the name of the limit that binds; an operator's setting beats what was read."""
    if setting is not None:
        return setting, "TIDEGATE_MEMORY_BUDGET"
    source = min(limits, key=lambda name: limits[name])
    return limits[source], source


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Evaluate as where not a byte more is to be had, so that a peak is what was needed.

    MLX lets a device run ahead of what is freed while there is room, so that the same step takes different
    peaks; over its memory limit it waits for what is in flight before every operation (mlx 0.32,
    ``transforms.cpp``, ``eval_impl``).
    """
    limit = mx.set_memory_limit(1)
    try:
        yield
    finally:
        mx.set_memory_limit(limit)


def device_name() -> str:
    """What MLX computes on, e.g. ``metal: Apple M2``."""
    kind = "metal" if mx.metal.is_available() else "cuda" if _cuda() else "cpu"
    return f"{kind}: {mx.device_info().get('device_name', 'unknown')}"


def _cuda() -> bool:
    return bool(getattr(mx, "cuda", None) and mx.cuda.is_available())
