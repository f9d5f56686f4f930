"""What the host and the device have: the limits that a budget is made from. All in bytes.

Each source is a function of its own, so that a test can give recorded values where there is no such
host; :func:`derive_budget` is pure.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import mlx.core as mx
import psutil

from workers import macos, own_size

HOST_RESERVE_BYTES: Final = 2 << 30
"""Left to the system and to other programs on a machine with unified memory."""

_DEVICE_SHARE: Final = 0.9
_HOST_SHARE: Final = 0.85


def read_limits(own_bytes: int = 0) -> dict[str, int]:
    """Every limit that can be read here, by name: never none, since a host tells at least its RAM.

    What a CUDA device tells of itself stands alone: neither the host's RAM nor its cgroup binds the
    device's memory. Where it tells nothing, or MLX computes on the CPU, the host's limits hold.

    Args:
        own_bytes: what this process holds already; it counts as available.
    """
    memory = psutil.virtual_memory()
    available_bytes = memory.available + own_bytes
    if mx.metal.is_available():  # psutil counts what is free or inactive as available
        purgeable_bytes = macos.purgeable_bytes(resource.getpagesize())
        return metal_limits(mx.device_info(), memory.total, available_bytes + purgeable_bytes)
    told = cuda_limits(mx.device_info(), own_bytes) if _cuda() else {}
    return told or (
        host_limits(memory.total, available_bytes)
        | cgroup_limits(Path("/sys/fs/cgroup"), _membership(), own_bytes)
        | own_size.address_space_limits(own_bytes)
    )


def read_pools() -> dict[str, int]:
    """The memory that this host's workers share and that binds this one, in pools, each with its whole.

    Their names are alike for every process on the host that takes from the same pool. The least whole is the
    steady budget of :func:`read_limits`, where nothing limits this process alone.
    """
    device, total_bytes = mx.device_info(), psutil.virtual_memory().total
    told = cuda_limits(device) if _cuda() else {}
    if told:
        return cuda_pool(device, told)
    limits = metal_limits(device, total_bytes, 0) if mx.metal.is_available() else host_limits(total_bytes, 0)
    pools = {name: limit for name, limit in limits.items() if not name.endswith("_available")}
    if mx.metal.is_available():
        return pools
    return pools | cgroup_pools(Path("/sys/fs/cgroup"), _membership())


def cuda_pool(device: dict[str, Any], limits: dict[str, int]) -> dict[str, int]:
    """A CUDA device's memory, which host RAM and other devices have no part in, by the device's own name."""
    name = device.get("uuid") or device.get("pci_bus_id") or "unknown"
    return {f"cuda_total {name}": steady_budget(limits, None)[0]}


def cgroup_pools(mount: Path, membership: str) -> dict[str, int]:
    """Linux: every limited cgroup that this process is in, named by its number in the kernel.

    Containers see a group under other paths and in other mounts, but with one inode number.

    Args:
        mount: as for :func:`cgroup_limits`.
        membership: likewise.
    """
    files, folders = _groups(mount, membership)
    rooms = [(folder.stat().st_ino, _room(folder, files, 0)) for folder in folders if folder.is_dir()]
    return {f"cgroup_total {number}": room[0] for number, room in rooms if room}


def host_limits(total_bytes: int, available_bytes: int) -> dict[str, int]:
    """RAM less a reserve, and a share of what the system could give up now (none to all of it)."""
    spare_bytes = min(total_bytes, max(0, available_bytes))
    return {
        "host_total": total_bytes - min(HOST_RESERVE_BYTES, total_bytes // 8),
        "host_available": int(spare_bytes * _HOST_SHARE),
    }


def metal_limits(device: dict[str, Any], total_bytes: int, available_bytes: int) -> dict[str, int]:
    """A Mac's: its host's limits, and Metal's recommended working set."""
    limits = host_limits(total_bytes, available_bytes)
    recommended = device.get("max_recommended_working_set_size")
    if recommended:
        limits["metal_working_set"] = int(recommended * _DEVICE_SHARE)
    return limits


def cuda_limits(device: dict[str, Any], own_bytes: int = 0) -> dict[str, int]:
    """A CUDA device's memory: all of it, and what is free, where MLX says so; else nothing.

    The names are mlx 0.32's (``backend/gpu/device_info.h``). A device of known size may have 0 bytes
    free; without a size, 0 is no reading.
    """
    limits = {}
    total, free = device.get("total_memory") or device.get("memory_size"), device.get("free_memory")
    if total:
        limits["cuda_total"] = int(total * _DEVICE_SHARE)
    if free or (total and free is not None):
        limits["cuda_available"] = int(max(0, free + own_bytes) * _DEVICE_SHARE)
    return limits


def cgroup_limits(mount: Path, membership: str, own_bytes: int = 0) -> dict[str, int]:
    """Linux: the least limit of this process's cgroup and of all above it, and the least room in one.

    Version 2's ``memory.high`` counts like ``memory.max``: over it the kernel throttles and reclaims.
    Version 1 is read where it has the memory controller. Pages of files that were not used lately count
    as unused: the kernel gives them back first. A file that is missing or odd limits nothing.

    Args:
        mount: where cgroups are mounted, ``/sys/fs/cgroup``.
        membership: the text of ``/proc/self/cgroup``.
        own_bytes: what this process holds already; it counts as available.
    """
    files, folders = _groups(mount, membership)
    rooms = [room for folder in folders if (room := _room(folder, files, own_bytes))]
    if not rooms:
        return {}
    totals, available = zip(*rooms, strict=True)
    return {"cgroup_total": min(totals), "cgroup_available": min(available)}


class _Files(NamedTuple):
    """What a version of cgroups calls its limits, what a group and those below it use, and idle pages."""

    limits: tuple[str, ...]
    usage: str
    idle: str


_V2: Final = _Files(("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1: Final = _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_NO_LIMIT: Final = 1 << 60
"""Version 1 says "unlimited" with the largest number of whole pages, some 2^63."""


def _membership() -> str:
    try:
        return Path("/proc/self/cgroup").read_text(errors="surrogateescape")
    except OSError:
        return ""


def _groups(mount: Path, membership: str) -> tuple[_Files, list[Path]]:
    """This process's group and those above it, up to the mount.

    A container may be told its path on the host, or one outside its namespace (``/../x``): a path that
    is not under the mount stands for the mount's root.
    """
    lines = [line.split(":", 2) for line in membership.split("\n") if line.count(":") > 1]
    paths = {controller: path for _, names, path in lines for controller in names.split(",")}
    version1 = paths.get("memory")
    files, root = (_V2, mount) if version1 is None else (_V1, mount / "memory")
    own = Path((version1 or paths.get("", "")).lstrip("/"))
    if ".." in own.parts or not (root / own).is_dir():
        own = Path()
    return files, [root / own, *(root / above for above in own.parents)]


def _room(folder: Path, files: _Files, own_bytes: int) -> tuple[int, int] | None:
    """A group's limit, and that less what others use; None where nothing limits it."""
    limits = [_number(folder / name) for name in files.limits]
    limit = min((each for each in limits if each is not None), default=_NO_LIMIT)
    if limit >= _NO_LIMIT:
        return None
    used = (_number(folder / files.usage) or 0) - _idle(folder, files.idle) - own_bytes
    return limit, max(0, limit - max(0, used))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None


def _idle(folder: Path, field: str) -> int:
    try:
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(fields.get(field, 0))
    except (OSError, ValueError):
        return 0


def steady_budget(limits: dict[str, int], setting: int | None) -> tuple[int, str]:
    """What could be had if nothing else ran here, and the limit's name: no passing pressure changes it.

    A job that does not fit even this never fits; one that does may have to wait.
    """
    steady = {name: limit for name, limit in limits.items() if not name.endswith("_available")}
    return derive_budget(steady or limits, setting)


def derive_budget(limits: dict[str, int], setting: int | None) -> tuple[int, str]:
    """The budget, and the name of the limit that binds; an operator's setting beats what was read.

    Raises:
        ValueError: there is neither a setting nor a limit.
    """
    if setting is not None:
        return setting, "TIDEGATE_MEMORY_BUDGET"
    if not limits:
        raise ValueError("no limit on memory can be read here; set TIDEGATE_MEMORY_BUDGET")
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
