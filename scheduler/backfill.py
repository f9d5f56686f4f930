"""The promise to a job that waits for memory, and who may pass it: EASY backfill.

The first job of the order that does not fit is promised a start: when enough of the running jobs will have ended
that it fits, and somewhat later, since whoever passes slows those that run. Another passes it only where that
does not delay the start: it will have ended by then, or the job fits beside it. A promise is made once and kept:
while it is overdue nobody passes.

Source of the rule: Lifka, "The ANL/IBM SP Scheduling System", 1995; Mu'alem and Feitelson, "Utilization,
Predictability, Workloads, and User Runtime Estimates", 2001.
"""

from __future__ import annotations

import math
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


def leaves_room(ledger: Ledger, job: Joining, model: str, row: Row, now_seconds: float) -> bool:
    """Whether a job that waits for its model's place would still fit there beside another that starts now.

    Args:
        ledger: the worker's account.
        job: the one that waits.
        model, row: those of the other.
        now_seconds: the clock that the ledger's recovery runs on.
    """
    its_model, its_row, _ = job
    before = [*ledger.rows(its_model)]
    if ledger.fits_without(its_model, its_row, before, now_seconds, joining=(model, row)):
        return True
    return not ledger.fits_without(its_model, its_row, before, now_seconds)  # it would not fit in any case


class Waits:
    """The jobs that one look at the queues finds to have to wait, and whom they let by.

    Those are the first that waits for memory or for company, and of each model that runs one job at a time, and runs
    one, the first that waits for that place. Each has a promise where its model is resident and rates are known.

    Args:
        ledger: the worker's account.
        now_seconds: the promises' clock.
        company: how many may run together.
        rates: the engine's; None before anything was measured.
        promises: the worker's; they are made here.
    """

    def __init__(
        self, ledger: Ledger, now_seconds: float, company: Company, rates: Rates | None, promises: Promises
    ) -> None:
        self._ledger, self._now, self._company, self._promises = ledger, now_seconds, company, promises
        self._rates = rates if ledger.holders else None
        self._first: Joining | None = None
        self._found: Blocked | None = None
        self._starts_at = math.inf
        self._aside: dict[str, Joining] = {}

    def add(self, job_id: str, job: Joining) -> bool:
        """A job has to wait; whether it is the first of all but those that wait for their model's place, or of those."""
        model = job[0]
        if not self._ledger.has_place(model):
            if model not in self._aside:
                self._aside[model] = job
                self._promise(job_id, job)
            return self._first is None and len(self._aside) == 1 and self._aside[model] is job
        if self._first is not None:
            return False
        self._first = job
        self._promise(job_id, job)
        if model in self._ledger.cards:
            self._starts_at = self._promises.starts_at.get(job_id, math.inf)
        return True

    def let(self, model: str, row: Row) -> bool:
        """Whether another may start before them."""
        if not all(leaves_room(self._ledger, job, model, row, self._now) for job in self._aside.values()):
            return False
        if self._first is None or self._rates is None or self._first[0] not in self._ledger.cards:
            return True
        if self._found is None:
            self._found = blocked(self._ledger, self._first, self._rates, self._now, self._company)
        starts_at = self._starts_at
        return may_pass(
            self._ledger, self._found, starts_at, model, row, self._rates, self._now, self._company
        )

    @property
    def overdue(self) -> bool:
        """Whether the first should have started by now: then nobody passes."""
        return self._starts_at <= self._now

    def _promise(self, job_id: str, job: Joining) -> None:
        if self._rates is None or job[0] not in self._ledger.cards or job_id in self._promises.starts_at:
            return
        found = blocked(self._ledger, job, self._rates, self._now, self._company)
        if job is self._first:
            self._found = found
        self._promises.make(job_id, found.seconds, self._now)
