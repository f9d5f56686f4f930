"""How much the engine may use now, and how much it uses."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import mlx.core as mx

from workers import gauge, macos, own_size
from workers.guard import FRUGAL_SECONDS
from workers.macos import Level
from workers.wire import Message

READING_SECONDS: Final = 1.0
"""How old a reading of the host may be when a step is begun."""

COUNTED_SECONDS: Final = 0.1
"""How old the kernel's count of this process may be: asking takes as long as a small step, and MLX's own is exact."""

_WORTH_TELLING: Final = 32
"""A part of the budget by which it must have changed for the worker to hear of it at once."""

_UNDER_PRESSURE: Final = 0.9
"""Of what the engine uses, what it may go on using while the kernel calls its memory critical."""

_SLACK_BYTES: Final = 256 << 20
"""What the interpreter and its libraries may grow by; the host's reserve has room for it."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where readings come from, so that a test can give recorded ones."""

    limits: Callable[[int], dict[str, int]] = gauge.read_limits
    level: Callable[[], Level] = macos.pressure_level
    footprint: Callable[[], int] = own_size.footprint_bytes


@dataclass(slots=True)
class Budget:
    """The engine's memory. All in bytes.

    Args:
        setting: the operator's budget, which stands for every limit that could be read.
        host: where readings come from.
        own_memory: whether MLX computes in this process's own memory, and not in a device's.
        clock: monotonic seconds.
    """

    setting: int | None
    host: Host = field(default_factory=Host)
    own_memory: bool = True
    clock: Callable[[], float] = time.monotonic
    frugal_until: float = -math.inf
    """By the clock. Until then no more is to be taken than must be: memory ran out, whatever was read."""
    share_bytes: int | None = None
    """What the host's other workers leave to this one."""
    now_bytes: int = 0
    """What may be used until the next reading."""
    _read_at: float = -math.inf
    _told_bytes: int = 0
    steady_bytes: int = 0
    """What may be used by a job that is alone, whatever passes."""
    _dropped: bool = False
    _base_bytes: int = field(init=False)
    _beside_bytes: int = 0
    _counted_at: float = -math.inf

    def __post_init__(self) -> None:
        if self.own_memory:  # MLX's threads and the BLAS's buffers are nobody's job
            mx.eval(mx.ones((64, 64)) @ mx.ones((64, 64)))
        self._base_bytes = self.host.footprint() + _SLACK_BYTES

    def used_bytes(self) -> int:
        """What arrays take that are not for reuse, or what the kernel counts of this process where that is more."""
        active = mx.get_active_memory()
        if self.own_memory and (now := self.clock()) - self._counted_at >= COUNTED_SECONDS:
            self._counted_at = now
            others = self.host.footprint() - self._base_bytes - active - mx.get_cache_memory()
            self._beside_bytes = max(0, others)
        return active + self._beside_bytes

    @property
    def frugal(self) -> bool:
        """Whether memory ran out a short while ago."""
        return self.clock() < self.frugal_until

    def ran_out(self, seconds: float = FRUGAL_SECONDS) -> None:
        """Be frugal for so long."""
        self.frugal_until = self.clock() + seconds

    def limit_bytes(self, jobs: int) -> int:
        """What so many jobs may use together: in company what there is now, and alone what stays."""
        return self.now_bytes if jobs > 1 else max(self.now_bytes, self.steady_bytes)

    def dropped(self, jobs: int) -> bool:
        """Whether caches need not be dropped again: for a job that is alone once a reading is enough."""
        return self._dropped and jobs < 2  # noqa: PLR2004 - alone

    def drop_caches(self) -> None:
        """Give back what is kept for reuse: MLX's buffers, and the C library's where those are what counts."""
        self._dropped, self._counted_at = True, -math.inf
        mx.clear_cache()
        if self.used_bytes() > mx.get_active_memory():
            own_size.give_back()

    def read(self, now_seconds: float) -> Message:
        """Read what the host can give now; what to tell the worker, beside the budget that stays.

        An operator's setting stands for every limit, not for the kernel's own word that memory is short: at a
        warning nobody is to join, at its critical level less is to be used than is now.
        """
        self._counted_at = -math.inf
        own_bytes = mx.get_active_memory() + mx.get_cache_memory()
        limits = self.host.limits(own_bytes)
        if self.share_bytes is not None:
            limits["host_share"] = self.share_bytes
        level = self.host.level()
        budget, _ = gauge.derive_budget(limits, self.setting)
        steady, source = gauge.steady_budget(limits, self.setting)
        if level is Level.CRITICAL:
            budget = min(budget, int(own_bytes * _UNDER_PRESSURE))
        self.now_bytes, self.steady_bytes, self._read_at, self._dropped = budget, steady, now_seconds, False
        mx.set_memory_limit(max(1, budget))
        if level is Level.WARN:
            mx.clear_cache()
            budget = min(budget, own_bytes)
        if level is not Level.NORMAL:
            limits["kernel_pressure_available"] = budget
        budget = max(
            0, budget - (self.used_bytes() - mx.get_active_memory())
        )  # the worker counts arrays alone
        self._told_bytes = budget
        told = {"budget_bytes": budget, "limits_bytes": limits}
        return told | {"steady_bytes": steady, "steady_source": source}

    def refresh(self, now_seconds: float) -> Message | None:
        """Read anew where the last reading has expired; what to tell the worker, where much has changed."""
        if now_seconds - self._read_at < READING_SECONDS:
            return None
        before = self._told_bytes
        told = self.read(now_seconds)
        return told if abs(self._told_bytes - before) > before // _WORTH_TELLING else None


def in_use(peak_bytes: int = 0) -> dict[str, int]:
    """What MLX counts, for the worker; of the peaks the larger."""
    return {
        "active_bytes": mx.get_active_memory(),
        "cache_bytes": mx.get_cache_memory(),
        "peak_bytes": max(peak_bytes, mx.get_peak_memory()),
    }


def free() -> None:
    """Let go of what nothing refers to, once what is under way is done."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
