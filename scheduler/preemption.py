"""Whom an interactive job may send back to wait: running work of class batch, a bounded number of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scheduler.admission import Candidate
from scheduler.batch_account import Holder
from scheduler.company import Company
from scheduler.forecast import Rates
from scheduler.job import PRIORITIES
from scheduler.ledger import Ledger

INTERACTIVE: Final = PRIORITIES[0]
BATCH: Final = PRIORITIES[-1]

_WORTH: Final = 2.0
"""Times what is computed again that the urgent job must be spared of waiting."""


@dataclass(frozen=True, slots=True)
class Running:
    """A job that holds memory, as preemption weighs it."""

    holder: Holder
    priority: str
    claimed_at: float
    preemptions: int
    """How often it was preempted before."""
    company_most: int | None = None
    """Jobs that may run where it runs; None: any number."""


def victims(
    urgent: Candidate,
    running: Sequence[Running],
    ledger: Ledger,
    now_seconds: float,
    *,
    rates: Rates | None,
    starts_at: float,
    max_batch: int,
    max_preemptions: int,
) -> tuple[Holder, ...]:
    """Whom to shed so that an interactive job starts now: the youngest of class batch first, no more than needed.

    Nobody where the job would start soon all the same: less than twice as long from now as it would take to compute
    again what would be lost. A promise that is overdue was worth nothing; without rates nobody knows.

    Args:
        urgent: the first job that does not fit.
        running: everything that holds memory on the worker.
        ledger: its account.
        now_seconds: the clock that the ledger's recovery runs on.
        rates: the engine's; None before anything was measured.
        starts_at: what the urgent job was promised, on the same clock.
        max_batch: jobs that may run together.
        max_preemptions: how often a job may be preempted.

    Returns:
        Their holders; none where the job is not interactive, or would not fit all the same.
    """
    if rates is None or urgent.priority != INTERACTIVE or urgent.model not in ledger.cards:
        return ()
    if urgent.company_most is not None:  # for a place in so little company, many would have to go
        return ()
    bounds = {each.holder: each.company_most for each in running if each.company_most is not None}
    company = Company(max_batch, bounds)

    def starts_without(leaving: tuple[Holder, ...]) -> bool:
        room = len(ledger.holders) - len(leaving) < company.most()
        return room and ledger.fits_without(urgent.model, urgent.planned, leaving, now_seconds)

    able = [each for each in running if each.priority == BATCH and each.preemptions < max_preemptions]
    youngest = sorted(able, key=lambda each: each.claimed_at, reverse=True)
    for count in range(1, len(youngest) + 1):
        leaving = tuple(each.holder for each in youngest[:count])
        if starts_without(leaving):
            for holder in leaving[:-1]:  # a later one may give back enough without it
                fewer = tuple(each for each in leaving if each != holder)
                if starts_without(fewer):
                    leaving = fewer
            lost = sum(ledger.holders[holder].cached_tokens for holder in leaving)
            spared = starts_at - now_seconds
            worth = spared <= 0 or spared > _WORTH * lost * rates.prompt_token_seconds
            return leaving if worth else ()
    return ()
