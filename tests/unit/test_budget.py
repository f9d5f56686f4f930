"""What the engine may use as its host's readings change, and what it counts as used."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import mlx.core as mx
import pytest

from workers.budget import COUNTED_SECONDS, READING_SECONDS, Budget, Host
from workers.engine import Engine
from workers.macos import Level
from workers.own_size import address_space_limits, footprint_bytes, space_left

MIB = 1 << 20
GIB = 1 << 30


@dataclass(slots=True)
class Recorded:
    """A host whose readings a test sets."""

    limits: dict[str, int] = field(
        default_factory=lambda: {"host_total": 10 * GIB, "host_available": 8 * GIB}
    )
    level: Level = Level.NORMAL
    footprint: int = 100 * MIB

    @property
    def host(self) -> Host:
        return Host(lambda _: dict(self.limits), lambda: self.level, lambda: self.footprint)


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    usual = mx.set_memory_limit(GIB)
    yield Recorded()
    mx.set_memory_limit(usual)


def test_a_reading_expires(recorded: Recorded) -> None:
    """It is taken anew before a step once it is old, and told where it has changed much."""
    budget = Budget(None, recorded.host)
    budget.share_bytes = 9 * GIB
    told = budget.read(100.0)
    assert (told["budget_bytes"], told["steady_bytes"], told["steady_source"]) == (
        8 * GIB,
        9 * GIB,
        "host_share",
    )
    recorded.limits["host_available"] = 4 * GIB
    assert budget.refresh(100.0 + READING_SECONDS / 2) is None
    assert budget.now_bytes == 8 * GIB
    told = budget.refresh(100.0 + READING_SECONDS) or {}
    assert (told["budget_bytes"], budget.now_bytes) == (4 * GIB, 4 * GIB)
    recorded.limits["host_available"] = 4 * GIB + MIB
    assert budget.refresh(200.0) is None  # nothing worth a message
    assert budget.now_bytes == 4 * GIB + MIB
    assert mx.set_memory_limit(GIB) == 4 * GIB + MIB


@pytest.mark.parametrize("setting", [None, 6 * GIB])
def test_the_kernels_word_counts_whatever_an_operator_set(recorded: Recorded, setting: int | None) -> None:
    """At a warning the engine goes on as it was and nobody joins; at the critical level it must use less than now."""
    mx.clear_cache()  # of tests before this one
    held = mx.zeros((2 * MIB,), dtype=mx.float32)
    mx.eval(held)
    budget = Budget(setting, recorded.host)
    usual = budget.read(0.0)["budget_bytes"]
    recorded.level = Level.WARN
    told = budget.read(1.0)
    own = mx.get_active_memory()
    assert budget.now_bytes == usual
    assert own <= told["budget_bytes"] <= own + mx.get_cache_memory() + 8 * MIB
    assert told["limits_bytes"]["kernel_pressure_available"] == told["budget_bytes"]
    recorded.level = Level.CRITICAL
    told = budget.read(2.0)
    assert told["budget_bytes"] == budget.now_bytes < mx.get_active_memory() + mx.get_cache_memory()
    assert told["steady_bytes"] == (setting or 10 * GIB)  # what ever fits is decided by what stays
    recorded.level = Level.NORMAL
    assert budget.read(3.0)["budget_bytes"] == usual


def test_what_is_kept_for_reuse_is_not_bounded_by_a_passing_reading(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set once: an engine that comes while memory is short keeps buffers like any other later."""
    recorded.level = Level.CRITICAL
    monkeypatch.setattr("workers.engine.Budget", lambda setting, **_: Budget(setting, recorded.host))
    engine = Engine(lambda _: None)
    shape = {"chunk_tokens": 64, "prefill_rows": 1, "max_batch": 1, "gap_seconds": 1}
    before = mx.set_cache_limit(0)
    try:
        engine.handle(
            {"kind": "configure", "memory_budget": None, "cache_limit": None, "cards_folder": ".", **shape}
        )
        engine.handle({"kind": "share", "share_bytes": 8 * GIB})
        assert mx.set_cache_limit(0) == 8 * GIB // 16
    finally:
        mx.set_cache_limit(before)


def test_what_the_kernel_counts_is_used_where_it_is_more(recorded: Recorded) -> None:
    """Beyond the interpreter's own size and some growth of it; what is kept for reuse is not in use."""
    moments = itertools.count(0.0, COUNTED_SECONDS)
    budget = Budget(None, recorded.host, clock=lambda: next(moments))
    active = mx.get_active_memory()
    assert budget.used_bytes() == active
    recorded.footprint += 200 * MIB
    assert budget.used_bytes() == active
    recorded.footprint += 3 * GIB
    assert 2 * GIB < budget.used_bytes() + mx.get_cache_memory() < 4 * GIB
    device = Budget(None, recorded.host, own_memory=False)
    recorded.footprint += 3 * GIB
    assert device.used_bytes() == mx.get_active_memory()


def test_a_job_alone_is_bound_by_what_stays(recorded: Recorded) -> None:
    """A passing reading neither shortens its chunks nor drops caches before each of its steps; company it binds."""
    budget = Budget(None, recorded.host)
    budget.read(0.0)
    recorded.limits["host_available"] = GIB
    budget.read(1.0)
    assert (budget.limit_bytes(1), budget.limit_bytes(2)) == (10 * GIB, GIB)
    assert not budget.dropped(1)
    budget.drop_caches()
    assert (budget.dropped(1), budget.dropped(2)) == (True, False)
    budget.read(2.0)
    assert not budget.dropped(1)


def test_the_worker_hears_what_is_left_for_arrays(recorded: Recorded) -> None:
    """What others in the process take is in the guard's count, and so not in the account's room."""
    budget = Budget(None, recorded.host)
    assert budget.read(0.0)["budget_bytes"] == 8 * GIB
    recorded.footprint += 3 * GIB
    assert 5 * GIB < budget.read(1.0)["budget_bytes"] < 5.5 * GIB
    assert budget.now_bytes == 8 * GIB


def test_freed_memory_goes_back_where_the_process_is_what_counts(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only there: it costs milliseconds."""
    given: list[None] = []
    monkeypatch.setattr("workers.own_size.give_back", lambda: given.append(None))
    budget = Budget(None, recorded.host)
    budget.drop_caches()
    assert given == []
    recorded.footprint += 3 * GIB
    budget.drop_caches()
    assert given == [None]


def test_an_address_space_is_left_to_what_is_not_in_it_yet() -> None:
    """Less what others than MLX take, and a tenth; nothing is left of one that is full."""
    assert space_left(2000, 500, 100) == {"address_space": 1440}
    assert space_left(2000, 50, 100) == {"address_space": 1800}
    assert space_left(2000, 3000, 0) == {"address_space": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to RLIMIT_AS")
def test_a_limited_process_knows_it() -> None:
    """And one without a limit has none."""
    assert address_space_limits(0) == {}
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from workers.gauge import read_limits; print(read_limits()['address_space'])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 2 * GIB < int(told.stdout) < 0.9 * 4 * GIB


def test_this_process_has_a_size() -> None:
    """At least what it holds."""
    held = bytearray(b"x") * (64 * MIB)
    assert footprint_bytes() > 64 * MIB
    assert held[-1] == ord("x")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_the_c_library_keeps_is_given_back() -> None:
    """Small blocks that were freed between blocks in use stay in the process until then."""
    script = (
        "from workers.own_size import footprint_bytes, give_back\n"
        "blocks = [bytes(60_000) for _ in range(4000)]\n"
        "kept = blocks[::16]; del blocks; before = footprint_bytes()\n"
        "give_back(); print(before - footprint_bytes())"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 100 * MIB
