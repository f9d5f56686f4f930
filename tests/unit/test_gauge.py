"""Budgets from recorded hosts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import psutil
import pytest

from workers.gauge import (
    cgroup_limits,
    cgroup_pools,
    cuda_limits,
    cuda_pool,
    derive_budget,
    device_name,
    host_limits,
    metal_limits,
    one_at_a_time,
    read_limits,
    read_pools,
    steady_budget,
)

GIB = 1 << 30


def test_an_operators_budget_beats_every_reading() -> None:
    """And the report says so."""
    assert derive_budget({"host_total": 1}, 18 * GIB) == (18 * GIB, "TIDEGATE_MEMORY_BUDGET")


def test_the_least_limit_binds() -> None:
    """Its name is the budget's source."""
    assert derive_budget({"host_total": 30, "cgroup": 10, "host_available": 20}, None) == (10, "cgroup")


@pytest.mark.parametrize("budget", [derive_budget, steady_budget])
def test_without_a_limit_an_operator_must_set_one(
    budget: Callable[[dict[str, int], int | None], tuple[int, str]],
) -> None:
    """The error names the setting; with it nothing need be read."""
    with pytest.raises(ValueError, match="set TIDEGATE_MEMORY_BUDGET"):
        budget({}, None)
    assert budget({}, GIB) == (GIB, "TIDEGATE_MEMORY_BUDGET")


LIMITS = {"host_total": 900, "host_available": 300, "cgroup_total": 800, "cgroup_available": 400}


@pytest.mark.parametrize(
    ("limits", "setting", "budget"),
    [
        (LIMITS, None, (800, "cgroup_total")),
        (LIMITS, 700, (700, "TIDEGATE_MEMORY_BUDGET")),
        ({"cuda_available": 300}, None, (300, "cuda_available")),
    ],
)
def test_what_passes_does_not_decide_what_ever_fits(
    limits: dict[str, int], setting: int | None, budget: tuple[int, str]
) -> None:
    """A reading binds only where nothing else is known; an operator's budget beats all."""
    assert steady_budget(limits, setting) == budget


def test_a_mac_is_limited_by_ram_working_set_and_what_is_free() -> None:
    """As MLX 0.32 reports an M2 Max with 32 GiB: a recommended working set of 22.9 GB."""
    device = {"device_name": "Apple M2 Max", "max_recommended_working_set_size": 22_906_503_168}
    limits = metal_limits(device, 32 * GIB, 20 * GIB)
    assert limits == {
        "host_total": 30 * GIB,
        "host_available": int(20 * GIB * 0.85),
        "metal_working_set": int(22_906_503_168 * 0.9),
    }
    assert derive_budget(limits, None) == (int(20 * GIB * 0.85), "host_available")


def test_a_small_mac_keeps_most_of_its_ram() -> None:
    """With 8 GiB an eighth is left to the system, not the 2 GiB of larger ones."""
    assert metal_limits({}, 8 * GIB, 8 * GIB)["host_total"] == 7 * GIB


@pytest.mark.parametrize(
    ("available", "spare"), [(-GIB, 0), (0, 0), (8 * GIB, 8 * GIB), (20 * GIB, 16 * GIB)]
)
def test_a_host_has_nothing_to_all_of_its_ram(available: int, spare: int) -> None:
    """Whatever the sum of what is free and what is held comes to."""
    assert host_limits(16 * GIB, available) == {
        "host_total": 14 * GIB,
        "host_available": int(spare * 0.85),
    }


@pytest.mark.parametrize(
    ("device", "limits"),
    [
        (
            {"free_memory": 70 * GIB, "total_memory": 80 * GIB},
            {"cuda_total": int(80 * GIB * 0.9), "cuda_available": int(70 * GIB * 0.9)},
        ),
        ({"total_memory": 80 * GIB}, {"cuda_total": int(80 * GIB * 0.9)}),
        (
            {"free_memory": 0, "total_memory": 80 * GIB},
            {"cuda_total": int(80 * GIB * 0.9), "cuda_available": 0},
        ),
        ({"free_memory": 0, "total_memory": 0}, {}),
        ({"device_name": "NVIDIA H100"}, {}),
    ],
)
def test_a_cuda_device_is_limited_by_its_free_memory(
    device: dict[str, object], limits: dict[str, int]
) -> None:
    """By all of it where MLX does not say what is free."""
    assert cuda_limits(device) == limits


def test_odd_holdings_leave_no_less_than_nothing(tmp_path: Path) -> None:
    """On a full device and in a full cgroup."""
    group(tmp_path, {"memory.max": 1000, "memory.current": 900})
    assert cuda_limits({"free_memory": 5, "total_memory": 10}, -100)["cuda_available"] == 0
    assert cgroup_limits(tmp_path, "0::/\n", -200)["cgroup_available"] == 0
    assert cgroup_limits(tmp_path, "0::/\n", 5000)["cgroup_available"] == 1000


@pytest.mark.parametrize(
    ("device", "source"),
    [
        ({"device_name": "NVIDIA H100"}, "host_available"),
        ({"free_memory": 70 * GIB, "total_memory": 80 * GIB}, "cuda_available"),
    ],
)
def test_a_silent_device_leaves_the_hosts_limits(
    monkeypatch: pytest.MonkeyPatch, device: dict[str, object], source: str
) -> None:
    """One that tells its memory is bound by neither the host's RAM nor its cgroup; nor does 0 go below 0."""
    host = SimpleNamespace(total=16 * GIB, available=0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    monkeypatch.setattr("workers.gauge._cuda", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: device)
    limits = read_limits(-1)
    assert derive_budget(limits, None) == (limits[source], source)
    assert min(limits.values()) >= 0
    assert len({name.split("_")[0] for name in limits} & {"host", "cuda"}) == 1


def group(folder: Path, files: dict[str, object]) -> None:
    """A recorded cgroup: each file's text ends as the kernel ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"memory.max": 8 * GIB, "memory.current": GIB}, (8 * GIB, 7 * GIB)),
        ({"memory.max": 8 * GIB, "memory.high": 6 * GIB, "memory.current": GIB}, (6 * GIB, 5 * GIB)),
        ({"memory.max": 6 * GIB, "memory.high": 8 * GIB, "memory.current": GIB}, (6 * GIB, 5 * GIB)),
        ({"memory.max": "max", "memory.high": 6 * GIB, "memory.current": GIB}, (6 * GIB, 5 * GIB)),
        (
            {"memory.max": 1000, "memory.current": 900, "memory.stat": "anon 100\ninactive_file 300"},
            (1000, 400),
        ),
        ({"memory.max": 1000, "memory.current": 900, "memory.stat": "rubbish"}, (1000, 100)),
        ({"memory.max": 1000, "memory.current": 2000}, (1000, 0)),
        ({"memory.max": 1000, "memory.current": "rubbish"}, (1000, 1000)),
        ({"memory.max": 1000}, (1000, 1000)),
        ({"memory.max": "max", "memory.high": "max", "memory.current": GIB}, None),
        ({"memory.max": "rubbish", "memory.current": GIB}, None),
        ({}, None),
    ],
)
def test_a_cgroup_limits_what_is_left_of_it(
    tmp_path: Path, files: dict[str, object], limits: tuple[int, int] | None
) -> None:
    """No limit, and files that are missing or odd, limit nothing."""
    group(tmp_path, files)
    assert cgroup_limits(tmp_path, "0::/\n") == told(limits)


def told(limits: tuple[int, int] | None) -> dict[str, int]:
    return dict(zip(("cgroup_total", "cgroup_available"), limits or (), strict=False))


@pytest.mark.parametrize(
    ("membership", "limits"),
    [
        ("0::/system.slice/tidegate.service\n", (600, 50)),  # its own limit; its slice has less left
        ("1:name=systemd:/\n0::/system.slice/tidegate.service\n", (600, 50)),
        ("0::/system.slice\n", (800, 50)),
        ("0::/user.slice\n", (1000, 200)),  # without a limit of its own
        ("0::/\n", (1000, 200)),
        ("0::/docker/4f1c\n", (1000, 200)),  # the host's path, told to a container
        ("0::/system.slice/docker-4f1c.scope\n", (1000, 200)),  # likewise: the slice here is another
        ("0::/../system.slice\n", (1000, 200)),  # outside of this namespace
        ("rubbish\n", (1000, 200)),
        ("", (1000, 200)),
    ],
)
def test_a_group_is_limited_by_all_above_it(tmp_path: Path, membership: str, limits: tuple[int, int]) -> None:
    """The least limit and the least that is left may be of two levels; a path not there is the root's."""
    mount = tmp_path / "cgroup"
    group(mount, {"memory.max": 1000, "memory.current": 800})
    group(mount / "system.slice", {"memory.max": 800, "memory.current": 750})
    group(mount / "system.slice/tidegate.service", {"memory.max": 600, "memory.current": 500})
    group(mount / "user.slice", {"memory.max": "max", "memory.current": 100})
    group(tmp_path / "system.slice", {"memory.max": 10, "memory.current": 5})
    assert cgroup_limits(mount, membership) == told(limits)


@pytest.mark.parametrize(
    ("membership", "limits"),
    [
        ("4:memory:/docker/4f1c\n1:cpu,cpuacct:/\n0::/\n", (1000, 500)),
        ("4:hugetlb,memory:/elsewhere\n", None),
        ("0::/\n", None),
    ],
)
def test_version_1_limits_where_it_has_the_memory(
    tmp_path: Path, membership: str, limits: tuple[int, int] | None
) -> None:
    """Its largest number is no limit."""
    unlimited = {"memory.limit_in_bytes": 9_223_372_036_854_771_712, "memory.usage_in_bytes": GIB}
    group(tmp_path / "memory", unlimited)
    stat = "inactive_file 1\ntotal_inactive_file 400"
    limited = {"memory.limit_in_bytes": 1000, "memory.usage_in_bytes": 900, "memory.stat": stat}
    group(tmp_path / "memory/docker/4f1c", limited)
    assert cgroup_limits(tmp_path, membership) == told(limits)


def test_this_host_has_a_budget() -> None:
    """Whatever it is: some memory, less than there is."""
    budget, source = derive_budget(read_limits(), None)
    assert source in read_limits()
    assert 0 < budget < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert device_name().split(":")[0] in {"metal", "cuda", "cpu"}


def chain_peak_bytes() -> int:
    """Of a hundred products in a row, with factors of 4 MiB made on the way: two at once will do."""
    made = mx.ones((256, 1024))
    mx.eval(made)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for _ in range(100):
        made = mx.exp(made * 1e-3) @ mx.ones((1024, 1024))
    mx.eval(made)
    mx.synchronize()
    return mx.get_peak_memory() - before


def test_evaluation_held_back_takes_what_it_must() -> None:
    """The limit is afterwards what it was, and an error leaves it so too."""
    limit = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(limit)
    with one_at_a_time():
        peaks = {chain_peak_bytes() for _ in range(3)}
    assert max(peaks) < 16 << 20  # left alone some 60 MiB, and 500 at most
    with pytest.raises(ZeroDivisionError), one_at_a_time():
        raise ZeroDivisionError
    assert mx.set_memory_limit(limit) == limit


def test_this_hosts_pools_make_its_steady_budget() -> None:
    """A worker alone gets the same by either."""
    pools = read_pools()
    assert min(pools.values()) == steady_budget(read_limits(), None)[0]


def test_a_macs_workers_share_its_ram_and_its_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free at the moment is no pool."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB, available=GIB))
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 50 * GIB})
    assert read_pools() == {"host_total": 62 * GIB, "metal_working_set": 45 * GIB}


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ({"uuid": "GPU-1f2e", "pci_bus_id": "0000:1b:00.0"}, "GPU-1f2e"),
        ({"pci_bus_id": "0000:1b:00.0"}, "0000:1b:00.0"),
        ({}, "unknown"),
    ],
    ids=str,
)
def test_a_gpu_is_a_pool_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: dict[str, object], name: str
) -> None:
    """By its own name: neither RAM nor another GPU binds there."""
    told = device | {"total_memory": 80 * GIB, "free_memory": 7 * GIB}
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    monkeypatch.setattr("workers.gauge._cuda", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: told)
    assert read_pools() == cuda_pool(told, cuda_limits(told)) == {f"cuda_total {name}": 72 * GIB}


def test_limited_groups_are_pools_by_their_number(tmp_path: Path) -> None:
    """Its own and those above it; the same group in another mount has the same number; one without a limit is none."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("9000\n")
    (inner / "memory.max").write_text("max\n")
    numbers = {folder: folder.stat().st_ino for folder in (tmp_path / "a", inner)}
    assert cgroup_pools(tmp_path, "0::/a/b\n") == {f"cgroup_total {numbers[tmp_path / 'a']}": 9000}
    (inner / "memory.max").write_text("500\n")
    both = {f"cgroup_total {numbers[tmp_path / 'a']}": 9000, f"cgroup_total {numbers[inner]}": 500}
    assert cgroup_pools(tmp_path, "0::/a/b\n") == both
    assert cgroup_pools(tmp_path / "a", "0::/b\n") == both
    assert cgroup_pools(inner, "0::/\n") == {f"cgroup_total {numbers[inner]}": 500}
    assert cgroup_pools(tmp_path / "none", "") == {}
