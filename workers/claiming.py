"""A worker's claims: reads the heads of its queues, lets admission choose, takes the job, reserves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from scheduler.admission import Candidate, Choice, Limits, choose, claimable_row, hopeless, kept_out
from scheduler.backfill import Promises
from scheduler.batch_account import Holder
from scheduler.envelope import VERSIONS_READ
from scheduler.footprint import alone_bytes, fitted
from scheduler.forecast import Rates
from scheduler.foresight import Row
from scheduler.holding import Before, Held, Holding
from scheduler.job import PRIORITIES, State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.preemption import Running, victims
from scheduler.record import JobRecord
from scheduler.refusals import never_fits
from scheduler.rivals import places, step_aside
from scheduler.settings import Settings
from scheduler.verdict import Decision, judge
from workers.planning import Planning
from workers.residency import Residency

log = structlog.get_logger(__name__)

_LOOKS = 4
"""Looks at the queues whose jobs may all be lost to other workers before a claim gives up for now."""


@dataclass(slots=True)
class Claiming:
    """What one worker may claim.

    Args:
        lifecycle: the verbs and the store.
        holding: this worker's verbs.
        queues: names of the queues it serves.
        clock: Unix seconds.
        residency: its models.
        planning: how long answers are taken to become.
        promises: the starts that it has promised.
        behind_prompts: whether the last claim found enough prompts that are still to be computed.
    """

    lifecycle: Lifecycle
    holding: Holding
    queues: Sequence[str]
    clock: Callable[[], float]
    residency: Residency
    planning: Planning
    promises: Promises = field(default_factory=Promises)
    behind_prompts: bool = False
    _blocked: Candidate | None = None
    _heads: list[list[tuple[JobRecord, int]]] | None = None
    _seen: dict[str, tuple[tuple[object, ...], Candidate]] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """The worker's settings."""
        return self.lifecycle.settings

    def limits(self, bounds: Mapping[Holder, int] | None) -> Limits:
        """The bounds on claims: the operator's, and those that running jobs set to their company."""
        known = self.settings
        return Limits(known.max_batch, known.max_passes, known.prefill_ahead, bounds or {})

    def claim(
        self, ledger: Ledger, rates: Rates | None, bounds: Mapping[Holder, int] | None = None
    ) -> Held | None:
        """Take the next job that fits, its memory reserved; None where none does.

        Args:
            ledger: the worker's account.
            rates: its engine's; None before anything was measured.
            bounds: how much company the running jobs may have that may not have any; None where none is bound.
        """
        beaten, limits = 0, self.limits(bounds)
        if not any(self._heads or ()):
            self.forget()
        for tries in range(_LOOKS * self.settings.claim_lookahead):
            classes = self._candidates(ledger)
            heads = [[candidate for candidate, _ in jobs] for jobs in classes]
            look = choose(heads, ledger, self.clock(), limits, rates, self.promises)
            self._blocked, self.behind_prompts = look.first_blocked, look.behind_prompts
            steps = random.randrange(places(beaten))  # noqa: S311 - not for secrets
            choice = step_aside(look, heads, ledger, self.clock(), limits, steps)
            if choice is None:
                full = look.behind_prompts or ledger.jobs >= limits.company.most()
                if not full and self._make_room([each for jobs in heads for each in jobs], ledger, limits):
                    continue
                return None
            rec = next(rec for jobs in classes for each, rec in jobs if each is choice.candidate)
            others = [each.id for jobs in classes for _, each in jobs if each is not rec]
            before = self.holding.read_before(rec, others)
            held = self._reserved(rec, choice, ledger, before)
            self._keep(before.waiting)
            if held is not None:
                self._count_passes(choice.passed)
                return held
            # What was taken since an older look was nobody's race; what waited a moment ago was.
            beaten += tries > 0 or before.whole is not None
        return None

    def victims(self, ledger: Ledger, rates: Rates | None, running: Sequence[Running]) -> tuple[Holder, ...]:
        """Whom to put back for the interactive job that the last claim found waiting first; none where there is none."""
        urgent = self._blocked
        if urgent is None:
            return ()
        return victims(
            urgent,
            running,
            ledger,
            self.clock(),
            rates=rates,
            starts_at=self.promises.starts_at.get(urgent.job_id, math.inf),
            max_batch=self.settings.max_batch,
            max_preemptions=self.settings.max_preemptions,
        )

    def _make_room(self, candidates: Sequence[Candidate], ledger: Ledger, limits: Limits) -> bool:
        """Unload idle models for the first job that memory keeps waiting, where that lets it run."""
        able = (each for each in candidates if each.model in ledger.cards and ledger.has_place(each.model))
        first = next(able, None)
        if first is None or kept_out(first, ledger, limits.company):
            return False
        row = first.planned if first.counted or ledger.jobs else Row(1, first.planned.max_tokens)
        return self.residency.make_room(first.model, ledger.marginal_bytes(first.model, row), ledger)

    def take(self, rec: JobRecord, ledger: Ledger) -> Held | None:
        """One certain job, alone; None where another has it, or it ended because it never fits."""
        if not self._claimable(rec, ledger):
            return None
        candidate, limits = self._candidate(rec, ledger), self.limits(None)
        row = claimable_row(candidate, ledger, self.clock(), limits.company) if not ledger.jobs else None
        if row is None and not ledger.jobs and self._make_room([candidate], ledger, limits):
            row = claimable_row(candidate, ledger, self.clock(), limits.company)
        return self._reserved(rec, Choice(candidate, row), ledger) if row else None

    def load(self, rec: JobRecord, ledger: Ledger) -> None:
        """See to it that a job's model is loaded, or that the job hears why it is not."""
        if self._claimable(rec, ledger) and rec.meta.model not in ledger.cards:
            self.residency.load(rec.meta.model, ledger)

    def _reserved(
        self, rec: JobRecord, choice: Choice, ledger: Ledger, before: Before | None = None
    ) -> Held | None:
        """Claim a job and hold its memory; None where another was first."""
        candidate, row = choice.candidate, choice.row
        card = ledger.cards[candidate.model]
        whole = replace(row, max_tokens=candidate.row.max_tokens).submitted
        meta = replace(
            rec.meta,
            estimated_bytes=alone_bytes(card, whole, ledger.chunk_tokens),
            reserved_bytes=max(0, ledger.marginal_bytes(candidate.model, row)),
            budget_bytes=ledger.budget_bytes,
        )
        before = before or self.holding.read_before(rec)
        if before.fault is not None:
            self.lifecycle.end_waiting(rec, Outcome(State.FAILED, error=before.fault.body()))
            return None
        held = self.holding.claim(rec, meta, choice.passed, before)
        if held is not None:
            urgent = rec.meta.priority == PRIORITIES[0]
            ledger.reserve(held.holder, rec.meta.model, row, urgent=urgent)
            self.residency.used(rec.meta.model)
        return held

    def load_wanted(self, ledger: Ledger) -> None:
        """Load the first served model that a waiting job needs and that is not in memory."""
        for jobs in self._read_heads(ledger):
            for rec, _ in jobs:
                if rec.meta.model in self.residency.served and rec.meta.model not in ledger.cards:
                    self.residency.load(rec.meta.model, ledger)
                    return

    def anything_waits(self, ledger: Ledger | None) -> bool:
        """Whether a job waits that this worker could run."""
        return self.lifecycle.queue.any_waits(self._classes, lambda rec: self._claimable(rec, ledger))

    @property
    def _classes(self) -> list[str]:
        return [name for name in PRIORITIES if name in self.queues]

    def _read_heads(self, ledger: Ledger) -> list[list[tuple[JobRecord, int]]]:
        """The heads of the queues: those read last, less what was claimed since, until :meth:`forget`."""
        if self._heads is None:
            self._heads = self.lifecycle.queue.heads(
                self._classes, self.settings.claim_lookahead, lambda rec: self._claimable(rec, ledger)
            )
        return self._heads

    def forget(self) -> None:
        """The queues changed: read them anew."""
        self._heads = None
        self._seen.clear()

    def _keep(self, waiting: Container[str]) -> None:
        """Of what was read, keep what waits: this worker or another took the rest.

        Where that was all of a class, more of it may wait, which comes before the less urgent ones that are left.
        """
        read = self._heads or ()
        kept = [[(rec, passes) for rec, passes in jobs if rec.id in waiting] for jobs in read]
        emptied = any(jobs and not left for jobs, left in zip(read, kept, strict=True))
        self._heads = None if emptied else kept

    def _count_passes(self, passed: Sequence[str]) -> None:
        """What the claim wrote, in what was read before it."""
        if passed and self._heads:
            self._heads = [[(rec, n + (rec.id in passed)) for rec, n in jobs] for jobs in self._heads]

    def _candidates(self, ledger: Ledger) -> list[list[tuple[Candidate, JobRecord]]]:
        return [
            [(self._candidate(rec, ledger, passes), rec) for rec, passes in jobs]
            for jobs in self._read_heads(ledger)
        ]

    def _claimable(self, rec: JobRecord, ledger: Ledger | None) -> bool:
        """Whether this worker could take the job; one that nobody wants, serves or could hold is ended here.

        Args:
            rec: a job that waits.
            ledger: this worker's account; None while there is no engine.
        """
        if rec.meta.version not in VERSIONS_READ or rec.outcome is not None:
            return False
        if rec.meta.model not in self.residency.sources or not self.lifecycle.queue.runnable(rec.id):
            return False
        if rec.cancel_requested:
            self.lifecycle.end_waiting(rec, Outcome(State.CANCELLED))
            return False
        error = self.residency.why_not(rec.meta.model)
        if error is not None:
            if not self.lifecycle.takers(rec.meta):
                self.lifecycle.end_waiting(rec, Outcome(State.FAILED, error=error.body()))
            return False
        if ledger is None or not hopeless(ledger, self._candidate(rec, ledger)):
            return True
        self._refuse_hopeless(rec, ledger)
        return False

    def _refuse_hopeless(self, rec: JobRecord, ledger: Ledger) -> None:
        """End a job that no live worker could ever hold; leave it to a larger one where there is one."""
        others = [r.view() for r in self.lifecycle.takers(rec.meta)]
        if judge(others, rec.meta.model, rec.row.submitted).decision is Decision.NEVER_FITS:
            card = ledger.cards[rec.meta.model]
            need = alone_bytes(card, fitted(card, rec.row.submitted), ledger.chunk_tokens)
            error = never_fits(rec.id, need, ledger.budget_bytes)
            self.lifecycle.end_waiting(rec, Outcome(State.FAILED, error=error.body()))

    def _candidate(self, rec: JobRecord, ledger: Ledger, passes: int = 0) -> Candidate:
        """A waiting job as admission sees it here."""
        meta, card = rec.meta, ledger.cards.get(rec.meta.model)
        shape = (meta, passes, card, self.planning.answers(meta.model))
        seen = self._seen.get(rec.id)
        if seen is not None and all(was is now for was, now in zip(seen[0], shape, strict=True)):
            return seen[1]  # each of a look's jobs is weighed again for every claim
        row = rec.row if card is None else fitted(card, rec.row)
        candidate = Candidate(
            rec.id,
            meta.model,
            row,
            counted=meta.counted,
            passes=passes,
            company_most=meta.company_most,
            answer_tokens=self.planning.waiting(rec, row),
            arrived_at=rec.created_at,
            priority=meta.priority,
        )
        self._seen[rec.id] = shape, candidate
        return candidate
