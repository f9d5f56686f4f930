"""Budgets from recorded hosts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from workers.gauge import (
    cgroup_limits,
    cuda_limits,
    derive_budget,
    device_name,
    metal_limits,
    one_at_a_time,
    read_limits,
    steady_budget,
)

GIB = 1 << 30


def test_an_operators_budget_beats_every_reading() -> None:
    """And the report says so."""
    assert derive_budget({"host_total": 1}, 18 * GIB) == (18 * GIB, "TIDEGATE_MEMORY_BUDGET")


def test_the_least_limit_binds() -> None:
    """Its name is the budget's source."""
    assert derive_budget({"host_total": 30, "cgroup": 10, "host_available": 20}, None) == (10, "cgroup")


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
