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
from typing import Final, TypeAlias

from scheduler.batch_account import Holder
from scheduler.company import Company
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


Joining: TypeAlias = tuple[str, Row, int | None]
"""A job that would run: its model, its row, and how many jobs may run where it runs (None: any number)."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A job that does not fit now, and how it will.

    Args:
        job: the one.
        leaving: those that will have ended by then.
        seconds: from now until they have, as foreseen now.
    """

    job: Joining
    leaving: tuple[Holder, ...]
    seconds: float


def blocked(ledger: Ledger, job: Joining, rates: Rates, now_seconds: float, company: Company) -> Blocked:
    """How a job that does not fit will come to fit: the fewest ends that are enough, soonest first.

    Args:
        ledger: the worker's account.
        job: the one.
        rates: the engine's.
        now_seconds: the clock that the ledger's recovery runs on.
        company: how many may run together.
    """
    model, row, company_most = job
    ends = endings(ledger, rates)
    order = [ending.holder for ending in ends]
    most = len(order)
    least = max(0, most + 1 - company.most(company_most))
    while least < most:  # the more have left the better it fits
        middle = (least + most) // 2
        if ledger.fits_without(model, row, order[:middle], now_seconds):
            most = middle
        else:
            least = middle + 1
    return Blocked(job, tuple(order[:most]), ends[most - 1].seconds if most else 0.0)


def may_pass(
    ledger: Ledger,
    first: Blocked,
    starts_at: float,
    model: str,
    row: Row,
    rates: Rates,
    now_seconds: float,
    company: Company,
) -> bool:
    """Whether a job that fits now may start before one that does not: its start is not delayed by it.

    Args:
        ledger: the worker's account.
        first: the job that waits.
        starts_at: what it was promised.
        model, row: those of the job that would pass; it may join those who run now.
        rates: the engine's.
        now_seconds: the promise's clock.
        company: how many may run together.
    """
    held = ledger.holders
    seconds = seconds_left([*held.values(), row], rates, ledger.chunk_tokens, ledger.prefill_rows)
    ends_at = dict(zip(held, (now_seconds + each for each in seconds), strict=False))
    if max((ends_at[holder] for holder in first.leaving), default=now_seconds) > starts_at:
        return False
    if now_seconds + seconds[-1] <= starts_at:
        return True
    first_model, first_row, first_most = first.job
    together = len(held) - len(first.leaving) + 2
    return together <= company.most(first_most) and ledger.fits_without(
        first_model, first_row, first.leaving, now_seconds, joining=(model, row)
    )
