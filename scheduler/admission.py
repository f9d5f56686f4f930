"""Who may run: what to accept, what to claim next. Pure decisions over plain values.

Three answers, never confused: *admitted* (now), *waits* (it fits, later), *never fits*.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from scheduler.backfill import Joining, Promises, Waits
from scheduler.batch_account import Holder
from scheduler.company import Company
from scheduler.footprint import alone_bytes, fitted
from scheduler.forecast import Rates
from scheduler.foresight import Row
from scheduler.job import PRIORITIES
from scheduler.ledger import Ledger

_MISSES_MOST: Final = 8
"""Jobs, each smaller in some way than those before it, that a look finds not to fit before it looks no further: a replay
takes some milliseconds, and tens of them where prompts are very long."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job as a claim sees it, in the order of its queue."""

    job_id: str
    model: str
    row: Row
    """With all of its ``max_tokens``."""
    counted: bool = True
    """Whether the row's prompt was counted; else it is an estimate."""
    passes: int = 0
    company_most: int | None = None
    """Jobs that may run where it runs, itself counted; None: any number."""
    answer_tokens: int | None = None
    """How long its answer is taken to become; None: as long as it may."""
    arrived_at: float = 0.0
    """Unix seconds."""
    priority: str = "standard"

    @property
    def planned(self) -> Row:
        """What is reserved for it."""
        longest = self.row.max_tokens if self.answer_tokens is None else self.answer_tokens
        if longest >= self.row.max_tokens:
            return self.row
        return replace(self.row, max_tokens=max(1, min(longest, self.row.max_tokens)))

    @property
    def joining(self) -> Joining:
        """As backfill sees it."""
        return self.model, self.planned, self.company_most


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on claims: an operator's, and those that running jobs set."""

    max_batch: int
    """Jobs that may run together."""
    max_passes: int
    """How often a job may be passed; one that was passed so often lets nobody by."""
    prefill_ahead_seconds: float = math.inf
    """Prompts that are still to be computed, in seconds, beyond which none is claimed: it would wait in the engine,
    where no more urgent one can come before it. An interactive one is, while the engine computes it beside those."""
    bounds: Mapping[Holder, int] = field(default_factory=dict)
    """How much company the running jobs may have that may not have any."""

    @property
    def company(self) -> Company:
        """How many jobs may run together."""
        return Company(self.max_batch, self.bounds)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to claim with which row, and which jobs it passes over."""

    candidate: Candidate
    row: Row
    passed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the queues' heads came to."""

    choice: Choice | None = None
    first_blocked: Candidate | None = None
    """The first job of the order that has to wait for memory or a place; it has a promise where rates are known."""
    behind_prompts: bool = False
    """Whether no more than interactive jobs are claimed, because enough prompts are still to be computed."""


def choose(
    classes: Sequence[Sequence[Candidate]],
    ledger: Ledger,
    now_seconds: float,
    limits: Limits,
    rates: Rates | None,
    promises: Promises,
) -> Look:
    """The next job to claim: those passed too often, then the most urgent class, then the queue's order.

    A job that does not fit is passed only by those that do not delay the start it was promised, and only so
    often. So is the first job of a less urgent class by more urgent ones that came later: no class starves.

    A job whose model runs one at a time, and runs one, stands aside: nobody waits for it or passes it, since it takes
    that one's place. What starts meanwhile leaves it the memory that it would have then.

    Progress: where nothing is held, a job whose estimate is too large is claimed all the same, so that
    its prompt is counted; and one that was counted and could never run here stands in nobody's way.

    Args:
        classes: the heads of the queues, most urgent class first, each in the order in which its jobs are due.
        ledger: this worker's account. A job of a model that is not resident waits like one that does
            not fit, and is passed as often at most.
        now_seconds: the clock that the ledger's recovery and the promises run on.
        limits: the operator's.
        rates: the engine's; None before anything was measured.
        promises: the worker's; one is made here.
    """
    order, owed = _in_order(classes, limits.max_passes, ledger)
    promises.keep({job.job_id for job in order})
    behind_prompts = _behind_prompts(ledger, rates, limits)
    if behind_prompts:
        order = [] if owed else _urgent(classes, ledger)  # nobody passes whose turn it is at last
    left, passed, too_large = deque(order), list[str](), list[tuple[str, Row]]()
    company = limits.company
    waits = Waits(ledger, now_seconds, company, rates, promises)
    first_blocked: Candidate | None = None
    full = ledger.jobs >= company.most()
    while left and len(too_large) < _MISSES_MOST:
        candidate = left.popleft()
        larger = ledger.jobs and _larger(candidate, too_large)
        row = None if full or larger else claimable_row(candidate, ledger, now_seconds, company)
        if row is not None and waits.let(candidate.model, row):
            behind = [] if candidate in owed else _heads_behind(classes, candidate, passed, ledger)
            choice = Choice(candidate, row, (*passed, *behind))
            return Look(choice, first_blocked, behind_prompts=behind_prompts)
        if hopeless(ledger, candidate):
            continue
        if row is None and waits.add(candidate.job_id, candidate.joining):
            first_blocked = candidate
        if not ledger.has_place(candidate.model):
            continue
        if candidate.model in ledger.cards and not (larger or kept_out(candidate, ledger, company)):
            too_large.append((candidate.model, candidate.planned))
        if full or waits.overdue:
            break
        if candidate.passes >= limits.max_passes:
            # It lets nobody by; who stands before it in its class goes on.
            ahead = _ahead(classes, candidate) if owed in ([], [candidate]) else []
            left = deque(job for job in left if job in ahead)
        else:
            passed.append(candidate.job_id)
    return Look(None, first_blocked, behind_prompts=behind_prompts)


def _behind_prompts(ledger: Ledger, rates: Rates | None, limits: Limits) -> bool:
    """Whether as many prompts are held and not computed as may be claimed ahead."""
    if rates is None:
        return False
    left = sum(max(0, row.prompt_tokens - row.cached_tokens) for row in ledger.holders.values())
    return left * rates.prompt_token_seconds > limits.prefill_ahead_seconds


def _urgent(classes: Sequence[Sequence[Candidate]], ledger: Ledger) -> list[Candidate]:
    """Who may be claimed though enough prompts are held: an interactive job, beside those of less urgent classes."""
    begun = ledger.prompts
    beside = len(begun) < ledger.prefill_rows and not any(begun.values())
    return [job for jobs in classes[:1] for job in jobs if job.priority == PRIORITIES[0]] if beside else []


def _in_order(
    classes: Sequence[Sequence[Candidate]], max_passes: int, ledger: Ledger
) -> tuple[list[Candidate], list[Candidate]]:
    """The order in which jobs are due: class by class, but before all the first of each that was passed too often.

    Returns:
        The order, and those that come first for that.
    """

    def waits_too_long(job: Candidate) -> bool:
        return job.passes >= max_passes and not hopeless(ledger, job) and ledger.has_place(job.model)

    found = [next((job for job in jobs if waits_too_long(job)), None) for jobs in classes]
    owed = [job for job in found if job is not None]
    return owed + [job for jobs in classes for job in jobs if job not in owed], owed


def _ahead(classes: Sequence[Sequence[Candidate]], candidate: Candidate) -> Sequence[Candidate]:
    """Those that stand before a job in its class."""
    mine = next(jobs for jobs in classes if candidate in jobs)
    return mine[: mine.index(candidate)]


def _larger(candidate: Candidate, too_large: Sequence[tuple[str, Row]]) -> bool:
    """Whether a job that did not fit just now was smaller."""
    row = candidate.planned
    return any(
        model == candidate.model
        and other.prompt_tokens <= row.prompt_tokens
        and other.max_tokens <= row.max_tokens
        for model, other in too_large
    )


def kept_out(candidate: Candidate, ledger: Ledger, company: Company) -> bool:
    """Whether too many jobs run for one more to join them, by its bound, by theirs or by its model's."""
    full = ledger.jobs >= company.most(candidate.company_most)
    return full or not ledger.has_place(candidate.model)


def claimable_row(candidate: Candidate, ledger: Ledger, now_seconds: float, company: Company) -> Row | None:
    """The row that a job could be claimed with now, whoever waits before it; None where it does not fit."""
    if candidate.model not in ledger.cards or kept_out(candidate, ledger, company):
        return None
    if ledger.fits(candidate.model, candidate.planned, now_seconds):
        return candidate.planned
    least = Row(1, candidate.planned.max_tokens)
    if not ledger.jobs and not candidate.counted and ledger.fits(candidate.model, least, now_seconds):
        return least
    return None


def _heads_behind(
    classes: Sequence[Sequence[Candidate]], chosen: Candidate, counted: Collection[str], ledger: Ledger
) -> list[str]:
    """The first jobs of less urgent classes that came before the one that is claimed: it passes them, too."""

    def waits(job: Candidate) -> bool:
        return job.job_id not in counted and not hopeless(ledger, job) and ledger.has_place(job.model)

    at = next(n for n, jobs in enumerate(classes) if chosen in jobs)
    heads = [next((job for job in jobs if waits(job)), None) for jobs in classes[at + 1 :]]
    return [job.job_id for job in heads if job is not None and job.arrived_at < chosen.arrived_at]


def hopeless(ledger: Ledger, candidate: Candidate) -> bool:
    """Whether a job could not run here even alone.

    An estimated prompt is given the benefit of the doubt, and so is a model that is not resident. A job that has begun
    is judged as it was submitted: computing its tokens anew takes no more, in chunks as short as it takes.
    """
    card = ledger.cards.get(candidate.model)
    if card is None:
        return False
    submitted = candidate.row.submitted
    row = submitted if candidate.counted else Row(1, submitted.max_tokens)
    return alone_bytes(card, fitted(card, row), ledger.chunk_tokens) > ledger.budget_bytes
