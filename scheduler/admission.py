"""Who may run: what to accept, what to claim next. Pure decisions over plain values.

Three answers, never confused: *admitted* (now), *waits* (it fits, later), *never fits*.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler.card import ModelCard
from scheduler.footprint import alone_bytes, fitted
from scheduler.foresight import Row
from scheduler.job import PRIORITIES
from scheduler.ledger import Ledger


class Decision(enum.StrEnum):
    """What a request got."""

    ADMITTED = "admitted"
    WAITS = "waits"
    NEVER_FITS = "never_fits"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A live worker as others see it."""

    name: str
    budget_bytes: int
    chunk_tokens: int
    served: frozenset[str]
    cards: dict[str, ModelCard]
    seconds_to_free: tuple[tuple[float, int], ...] = ()
    """When running jobs end and the bytes each gives back, soonest first."""
    headroom_bytes: int = 0
    tokens_per_second: float = 0.0
    work_tokens_per_second: float = 0.0
    """Prompt and completion tokens together; 0 where nothing was measured yet."""
    max_batch: int = 1
    """Jobs that it runs together at most."""
    reported_at: float = 0.0
    """Unix seconds; 0 where it is of now."""
    queues: frozenset[str] = frozenset(PRIORITIES)
    """The classes that it takes."""

    def takes(self, model: str, priority: str) -> bool:
        """Whether it runs jobs of a class for a model."""
        return model in self.served and priority in self.queues


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer with its numbers."""

    decision: Decision
    need_bytes: int = 0
    limit_bytes: int = 0


def judge(workers: Iterable[WorkerView], model: str, row: Row) -> Verdict:
    """Whether any live worker that serves the model could ever hold the job, alone.

    A worker that has not measured the model yet leaves it open, as does the lack of any worker: the
    answer is then *waits*. Need and limit are those of the worker that comes closest.
    """
    closest: Verdict | None = None
    for worker in workers:
        if model not in worker.served:
            continue
        card = worker.cards.get(model)
        if card is None:
            return Verdict(Decision.WAITS, limit_bytes=worker.budget_bytes)
        need = alone_bytes(card, fitted(card, row), worker.chunk_tokens)
        if need <= worker.budget_bytes:
            return Verdict(Decision.ADMITTED, need, worker.budget_bytes)
        if closest is None or worker.budget_bytes - need > closest.limit_bytes - closest.need_bytes:
            closest = Verdict(Decision.NEVER_FITS, need, worker.budget_bytes)
    return closest or Verdict(Decision.WAITS)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job as a claim sees it, in the order of its queue."""

    job_id: str
    model: str
    row: Row
    counted: bool = True
    """Whether the row's prompt was counted; else it is an estimate."""
    passes: int = 0
    alone: bool = False
    """Whether it must share the engine with nobody."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to claim with which row, and which jobs it passes over."""

    candidate: Candidate
    row: Row
    passed: tuple[str, ...] = ()


def choose(
    classes: Sequence[Sequence[Candidate]],
    ledger: Ledger,
    now_seconds: float,
    *,
    max_batch: int,
    max_passes: int,
) -> Choice | None:
    """The next job to claim: the most urgent class, then arrival, smaller ones passing within a bound.

    Progress: where nothing is held, a job whose estimate is too large is claimed all the same, so that
    its prompt is counted; and one that was counted and could never run here stands in nobody's way.

    Args:
        classes: the heads of the queues, most urgent class first.
        ledger: this worker's account. A job of a model that is not resident waits like one that does
            not fit, and is passed as often at most.
        now_seconds: the clock that the ledger's recovery runs on.
        max_batch: jobs that may run together.
        max_passes: how often a job may be passed; one that was passed so often lets nobody by.
    """
    if len(ledger.holders) >= max_batch:
        return None
    passed: list[str] = []
    for candidate in (job for jobs in classes for job in jobs):
        if candidate.model in ledger.cards and not (candidate.alone and ledger.holders):
            if ledger.fits(candidate.model, candidate.row, now_seconds):
                return Choice(candidate, candidate.row, tuple(passed))
            least = Row(1, candidate.row.max_tokens)
            if (
                not ledger.holders
                and not candidate.counted
                and ledger.fits(candidate.model, least, now_seconds)
            ):
                return Choice(candidate, least, tuple(passed))
        if candidate.model in ledger.cards and hopeless(ledger, candidate):
            continue
        if candidate.passes >= max_passes:
            return None
        passed.append(candidate.job_id)
    return None


def hopeless(ledger: Ledger, candidate: Candidate) -> bool:
    """Whether a job could not run here even alone; an estimated prompt is given the benefit of the doubt."""
    row = candidate.row if candidate.counted else Row(1, candidate.row.max_tokens)
    card = ledger.cards[candidate.model]
    return alone_bytes(card, fitted(card, row), ledger.chunk_tokens) > ledger.budget_bytes
