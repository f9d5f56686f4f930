"""The promise to a job that waits for memory, and who may pass it: EASY backfill.

The first job of the order that does not fit is promised a start: when enough of the running jobs will have ended
that it fits, and somewhat later, since whoever passes slows those that run. Another passes it only where that
does not delay the start: it will have ended by then, or the job fits beside it. A promise is made once and kept:
while it is overdue nobody passes.

Source of the rule: Lifka, "The ANL/IBM SP Scheduling System", 1995; Mu'alem and Feitelson, "Utilization,
Predictability, Workloads, and User Runtime Estimates", 2001.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from scheduler.batch_account import Holder
from scheduler.forecast import Rates, seconds_left
from scheduler.foresight import Row
from scheduler.ledger import Ledger

_SLACK: Final = 1.5
"""Times what is foreseen that is promised: a prompt that is computed meanwhile lengthens every loop, and lengths
of answers are estimates."""


@dataclass(slots=True)
class Promises:
    """One worker's promised starts, by job, on the clock that the ledger's recovery runs on."""

    starts_at: dict[str, float] = field(default_factory=dict)

    def make(self, job_id: str, seconds: float, now_seconds: float) -> None:
        """Promise a job its start, so many seconds from now and somewhat more; a promise made before stands."""
        self.starts_at.setdefault(job_id, now_seconds + seconds * _SLACK)

    def keep(self, waiting: Collection[str]) -> None:
        """Forget those to jobs that do not wait any more."""
        for job_id in [each for each in self.starts_at if each not in waiting]:
            del self.starts_at[job_id]


@dataclass(frozen=True, slots=True)
class Ending:
    """A running job's end, as foreseen."""

    holder: Holder
    seconds: float
    """From now."""


def endings(ledger: Ledger, rates: Rates) -> list[Ending]:
    """When those that hold memory are going to end, soonest first."""
    held = ledger.holders
    seconds = seconds_left(held.values(), rates, ledger.chunk_tokens, ledger.prefill_rows)
    ended = [Ending(holder, left) for holder, left in zip(held, seconds, strict=True)]
    return sorted(ended, key=lambda ending: ending.seconds)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A job that does not fit now, and how it will.

    Args:
        model, row: its own.
        alone: whether it must have no company.
        leaving: those that will have ended by then.
        seconds: from now until they have, as foreseen now.
    """

    model: str
    row: Row
    alone: bool
    leaving: tuple[Holder, ...]
    seconds: float


def blocked(
    ledger: Ledger, model: str, row: Row, rates: Rates, now_seconds: float, *, alone: bool, max_batch: int
) -> Blocked:
    """How a job that does not fit will come to fit: the fewest ends that are enough, soonest first.

    Args:
        ledger: the worker's account.
        model, row: the job's.
        rates: the engine's.
        now_seconds: the clock that the ledger's recovery runs on.
        alone: whether the job must have no company.
        max_batch: jobs that may run together.
    """
    ends = endings(ledger, rates)
    order = [ending.holder for ending in ends]
    most = len(order)
    least = most if alone else max(0, most + 1 - max_batch)
    while least < most:  # the more have left the better it fits
        middle = (least + most) // 2
        if ledger.fits_without(model, row, order[:middle], now_seconds):
            most = middle
        else:
            least = middle + 1
    return Blocked(model, row, alone, tuple(order[:most]), ends[most - 1].seconds if most else 0.0)


def may_pass(
    ledger: Ledger,
    first: Blocked,
    starts_at: float,
    model: str,
    row: Row,
    rates: Rates,
    now_seconds: float,
    max_batch: int,
) -> bool:
    """Whether a job that fits now may start before one that does not: its start is not delayed by it.

    Args:
        ledger: the worker's account.
        first: the job that waits.
        starts_at: what it was promised.
        model, row: those of the job that would pass.
        rates: the engine's.
        now_seconds: the promise's clock.
        max_batch: jobs that may run together.
    """
    held = ledger.holders
    seconds = seconds_left([*held.values(), row], rates, ledger.chunk_tokens, ledger.prefill_rows)
    ends_at = dict(zip(held, (now_seconds + each for each in seconds), strict=False))
    if max((ends_at[holder] for holder in first.leaving), default=now_seconds) > starts_at:
        return False
    if now_seconds + seconds[-1] <= starts_at:
        return True
    return (
        not first.alone
        and len(held) - len(first.leaving) + 2 <= max_batch
        and ledger.fits_without(first.model, first.row, first.leaving, now_seconds, joining=(model, row))
    )
