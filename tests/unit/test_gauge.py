"""Budgets from recorded hosts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from workers.gauge import cgroup_limits, cuda_limits, derive_budget, device_name, metal_limits, read_limits

GIB = 1 << 30


def test_an_operators_budget_beats_every_reading() -> None:
    """And the report says so."""
    assert derive_budget({"host_total": 1}, 18 * GIB) == (18 * GIB, "TIDEGATE_MEMORY_BUDGET")


def test_the_least_limit_binds() -> None:
    """Its name is the budget's source."""
    assert derive_budget({"host_total": 30, "cgroup": 10, "host_available": 20}, None) == (10, "cgroup")


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
    ("device", "limits"),
    [
        (
            {"free_memory": 70 * GIB, "total_memory": 80 * GIB},
            {"cuda_total": int(80 * GIB * 0.9), "cuda_available": int(70 * GIB * 0.9)},
        ),
        ({"total_memory": 80 * GIB}, {"cuda_total": int(80 * GIB * 0.9)}),
        ({"device_name": "NVIDIA H100"}, {}),
    ],
)
def test_a_cuda_device_is_limited_by_its_free_memory(
    device: dict[str, object], limits: dict[str, int]
) -> None:
    """By all of it where MLX does not say what is free."""
    assert cuda_limits(device) == limits


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
@pytest.mark.parametrize(
    ("most", "current", "limits"),
    [
        ("8589934592\n", "1073741824\n", {"cgroup_total": 8 * GIB, "cgroup_available": 7 * GIB}),
        ("max\n", "1073741824\n", {}),
        ("1000\n", "2000\n", {"cgroup_total": 1000, "cgroup_available": 0}),
        ("8589934592\n", None, {}),
        ("8589934592\n", "rubbish", {}),
        (None, None, {}),
    ],
)
def test_a_cgroup_limits_what_is_left_of_it(
    tmp_path: Path, most: str | None, current: str | None, limits: dict[str, int]
) -> None:
    """No limit, and files that are missing or odd, limit nothing."""
    for name, text in (("memory.max", most), ("memory.current", current)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert cgroup_limits(tmp_path) == limits


def test_this_host_has_a_budget() -> None:
    """Whatever it is: some memory, less than there is."""
    budget, source = derive_budget(read_limits(), None)
    assert source in read_limits()
    assert 0 < budget < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert device_name().split(":")[0] in {"metal", "cuda", "cpu"}
