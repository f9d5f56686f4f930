"""Who may run: what to accept, what to claim next, when to retry. Pure decisions over plain values.

Three answers, never confused: *admitted* (now), *waits* (it fits, later), *never fits*.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from scheduler.card import ModelCard
from scheduler.footprint import alone_bytes, fitted
from scheduler.foresight import Row
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


DEFAULT_TOKENS_PER_SECOND: Final = 20.0
"""Assumed where nothing was measured yet: a small model on a laptop."""


def seconds_until_free(
    ending: Iterable[tuple[float, int]], headroom_bytes: int, need_bytes: int
) -> float | None:
    """When running jobs will have given back enough, in seconds from now; None where they never do.

    Args:
        ending: (seconds until it ends, bytes it gives back), one for each running job.
        headroom_bytes: free now.
        need_bytes: wanted.
    """
    free = headroom_bytes
    if free >= need_bytes:
        return 0.0
    for seconds, given_back in sorted(ending):
        free += given_back
        if free >= need_bytes:
            return seconds
    return None


def expected_wait(workers: Sequence[WorkerView], model: str, need_bytes: int, tokens_ahead: int) -> float:
    """Seconds until a job could start: memory released by then, behind the queue's token work.

    Args:
        workers: the live ones.
        model: the job's.
        need_bytes: beside the weights.
        tokens_ahead: prompt and completion tokens that wait before it.
    """
    serving = [worker for worker in workers if model in worker.served]
    rate = sum(worker.tokens_per_second or DEFAULT_TOKENS_PER_SECOND for worker in serving)
    behind = tokens_ahead / rate if rate else tokens_ahead / DEFAULT_TOKENS_PER_SECOND
    releases = [
        seconds
        for worker in serving
        if (seconds := seconds_until_free(worker.seconds_to_free, worker.headroom_bytes, need_bytes))
        is not None
    ]
    return behind + min(
        releases, default=max((s for w in serving for s, _ in w.seconds_to_free), default=0.0)
    )
