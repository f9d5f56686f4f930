"""Who may run: what to accept, what to claim next. Pure decisions over plain values.

Three answers, never confused: *admitted* (now), *waits* (it fits, later), *never fits*.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from scheduler.backfill import Blocked, Promises, blocked, may_pass
from scheduler.footprint import alone_bytes, fitted
from scheduler.forecast import Rates
from scheduler.foresight import Row
from scheduler.ledger import Ledger


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
    alone: bool = False
    """Whether it must share the engine with nobody."""
    answer_tokens: int | None = None
    """How long its answer is taken to become; None: as long as it may."""
    arrived_at: float = 0.0
    """Unix seconds."""
    priority: str = "standard"

    @property
    def planned(self) -> Row:
        """What is reserved for it."""
        longest = self.row.max_tokens if self.answer_tokens is None else self.answer_tokens
        return Row(self.row.prompt_tokens, max(1, min(longest, self.row.max_tokens)))


@dataclass(frozen=True, slots=True)
class Limits:
    """An operator's bounds on claims."""

    max_batch: int
    """Jobs that may run together."""
    max_passes: int
    """How often a job may be passed; one that was passed so often lets nobody by."""
    prefill_ahead_seconds: float = math.inf
    """Prompts that are still to be computed, in seconds, beyond which none is claimed: it would wait in the engine,
    where no more urgent one can come before it."""


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
    """Whether nobody is claimed because enough prompts are still to be computed."""


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
    order, kept = _in_order(classes, limits.max_passes)
    promises.keep({job.job_id for job in order})
    if (
        rates is not None
        and _prompts_ahead(ledger) * rates.prompt_token_seconds > limits.prefill_ahead_seconds
    ):
        return Look(behind_prompts=True)
    passed: list[str] = []
    too_large: list[tuple[str, Row]] = []
    wait: _Wait | None = None
    full = len(ledger.holders) >= limits.max_batch
    for at, candidate in enumerate(order):
        row = None
        if not full and not (ledger.holders and _larger(candidate, too_large)):
            row = claimable_row(candidate, ledger, now_seconds)
        if row is not None and (wait is None or wait.lets(candidate, row)):
            owed = at < kept  # who has its turn at last passes nobody
            behind = [] if owed else _heads_behind(classes, candidate, {*passed, candidate.job_id}, ledger)
            return Look(Choice(candidate, row, (*passed, *behind)), wait.job if wait else None)
        if candidate.model in ledger.cards:
            if hopeless(ledger, candidate):
                continue
            if not candidate.alone:  # it may be small: company keeps it waiting
                too_large.append((candidate.model, candidate.planned))
        if wait is None:
            wait = _Wait(candidate, ledger, now_seconds, limits, rates, promises)
        if full or candidate.passes >= limits.max_passes or wait.overdue:
            break
        passed.append(candidate.job_id)
    return Look(None, wait.job if wait else None)


def _prompts_ahead(ledger: Ledger) -> int:
    """Tokens of prompts that are held and not computed."""
    return sum(max(0, row.prompt_tokens - row.cached_tokens) for row in ledger.holders.values())


class _Wait:
    """The first job that has to wait, and the promise to it where its model is there and rates are known."""

    def __init__(
        self,
        job: Candidate,
        ledger: Ledger,
        now_seconds: float,
        limits: Limits,
        rates: Rates | None,
        promises: Promises,
    ) -> None:
        self.job = job
        self._ledger, self._now, self._limits = ledger, now_seconds, limits
        self._rates = rates if job.model in ledger.cards and ledger.holders else None
        self._found: Blocked | None = None
        if self._rates is not None and job.job_id not in promises.starts_at:
            promises.make(job.job_id, self._how(self._rates).seconds, now_seconds)
        self._starts_at = promises.starts_at.get(job.job_id, math.inf)

    @property
    def overdue(self) -> bool:
        """Whether it should have started by now: then nobody passes."""
        return self._starts_at <= self._now

    def lets(self, candidate: Candidate, row: Row) -> bool:
        """Whether another may start before it."""
        if self._rates is None:
            return True
        how, model, most = self._how(self._rates), candidate.model, self._limits.max_batch
        return may_pass(self._ledger, how, self._starts_at, model, row, self._rates, self._now, most)

    def _how(self, rates: Rates) -> Blocked:
        if self._found is None:
            job, most = self.job, self._limits.max_batch
            self._found = blocked(
                self._ledger, job.model, job.planned, rates, self._now, alone=job.alone, max_batch=most
            )
        return self._found


def _in_order(classes: Sequence[Sequence[Candidate]], max_passes: int) -> tuple[list[Candidate], int]:
    """The order in which jobs are due: class by class, but first what stands in a class before one passed too often.

    Returns:
        The order, and how many come first for that.
    """
    kept = [
        max((at + 1 for at, job in enumerate(jobs) if job.passes >= max_passes), default=0)
        for jobs in classes
    ]
    first = [job for jobs, count in zip(classes, kept, strict=True) for job in jobs[:count]]
    rest = [job for jobs, count in zip(classes, kept, strict=True) for job in jobs[count:]]
    return first + rest, len(first)


def _larger(candidate: Candidate, too_large: Sequence[tuple[str, Row]]) -> bool:
    """Whether a job that did not fit just now was smaller."""
    row = candidate.planned
    return any(
        model == candidate.model
        and other.prompt_tokens <= row.prompt_tokens
        and other.max_tokens <= row.max_tokens
        for model, other in too_large
    )


def claimable_row(candidate: Candidate, ledger: Ledger, now_seconds: float) -> Row | None:
    """The row that a job could be claimed with now, whoever waits before it; None where it does not fit."""
    if candidate.model not in ledger.cards or (candidate.alone and ledger.holders):
        return None
    if ledger.fits(candidate.model, candidate.planned, now_seconds):
        return candidate.planned
    least = Row(1, candidate.planned.max_tokens)
    if not ledger.holders and not candidate.counted and ledger.fits(candidate.model, least, now_seconds):
        return least
    return None


def _heads_behind(
    classes: Sequence[Sequence[Candidate]], chosen: Candidate, counted: Collection[str], ledger: Ledger
) -> list[str]:
    """The first jobs of less urgent classes that came before the one that is claimed: it passes them, too."""

    def waits(job: Candidate) -> bool:
        return job.job_id not in counted and not (job.model in ledger.cards and hopeless(ledger, job))

    at = next(n for n, jobs in enumerate(classes) if chosen in jobs)
    heads = [next((job for job in jobs if waits(job)), None) for jobs in classes[at + 1 :]]
    return [job.job_id for job in heads if job is not None and job.arrived_at < chosen.arrived_at]


def hopeless(ledger: Ledger, candidate: Candidate) -> bool:
    """Whether a job could not run here even alone; an estimated prompt is given the benefit of the doubt."""
    row = candidate.row if candidate.counted else Row(1, candidate.row.max_tokens)
    card = ledger.cards[candidate.model]
    return alone_bytes(card, fitted(card, row), ledger.chunk_tokens) > ledger.budget_bytes
