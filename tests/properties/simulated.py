"""One worker and its three queues on a clock that only loops move: jobs end when their tokens are made."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from scheduler.admission import Candidate, Limits, Look, choose, hopeless
from scheduler.backfill import Promises
from scheduler.batch_account import Holder
from scheduler.forecast import Rates
from scheduler.foresight import Row
from scheduler.job import PRIORITIES
from scheduler.ledger import Ledger
from tests.cards import PLAIN

BUDGET: Final = PLAIN.weights_bytes + 400_000
LIMITS: Final = Limits(max_batch=4, max_passes=3)
CHUNK_TOKENS: Final = 256
STEP_SECONDS: Final = 0.05
RATES: Final = Rates(STEP_SECONDS, 0.0)
"""Prompts take loops, and no more seconds than other loops: so a forecast is exact."""


@dataclass(frozen=True)
class Promise:
    """To a job that waited first."""

    starts_at: float
    unpassed_at: float
    """When it starts where nobody comes after the promise."""
    disturbed: bool = False
    """Whether one that was due before it ran since."""


@dataclass
class Simulated:
    """The worker."""

    ledger: Ledger = field(default_factory=lambda: Ledger(BUDGET, CHUNK_TOKENS, 1))
    queues: list[list[Candidate]] = field(default_factory=lambda: [[] for _ in PRIORITIES])
    promises: Promises = field(default_factory=Promises)
    passes: Counter[str] = field(default_factory=Counter)
    overtaken: Counter[str] = field(default_factory=Counter)
    """How often each was passed, counted apart."""
    answers: dict[str, int] = field(default_factory=dict)
    """What each really writes, in tokens."""
    promised: dict[str, Promise] = field(default_factory=dict)
    running: dict[Holder, Candidate] = field(default_factory=dict)
    now: float = 1000.0
    made: int = 0

    def __post_init__(self) -> None:
        self.ledger.admit_model(PLAIN)

    def arrive(
        self, which: int, row: Row, planned: int | None, answer: int, company_most: int | None
    ) -> None:
        """A job comes to wait; its answer's length is known to nobody."""
        self.made += 1
        name, came = f"job_{self.made}", self.now + self.made * 1e-6
        priority = PRIORITIES[which]
        job = Candidate(
            name,
            PLAIN.model,
            row,
            company_most=company_most,
            answer_tokens=planned,
            arrived_at=came,
            priority=priority,
        )
        self.answers[name] = answer
        self.queues[which].append(job)

    def look(self) -> Look:
        """What to claim next."""
        seen = [[replace(job, passes=self.passes[job.job_id]) for job in jobs] for jobs in self.queues]
        bounds = {holder: job.company_most for holder, job in self.running.items() if job.company_most}
        return choose(seen, self.ledger, self.now, replace(LIMITS, bounds=bounds), RATES, self.promises)

    def claim(self) -> Candidate | None:
        """Claim what is next."""
        look = self.look()
        self._note_promise(look)
        if look.choice is None:
            return None
        chosen = look.choice.candidate
        which = PRIORITIES.index(chosen.priority)
        at = next(n for n, job in enumerate(self.queues[which]) if job.job_id == chosen.job_id)
        self._note_passed(which, at)
        self._note_who_was_due_before(look, chosen)
        holder = Holder(chosen.job_id, 1)
        self.ledger.reserve(holder, chosen.model, look.choice.row)
        self.running[holder] = self.queues[which].pop(at)
        self.count(look.choice.passed)
        return chosen

    def count(self, passed: tuple[str, ...]) -> None:
        """As the store does."""
        self.passes.update(passed)

    def loop(self) -> None:
        """One of the engine's: a token for each row that decodes, then a chunk of the first prompt."""
        self.now += STEP_SECONDS
        held = self.ledger.holders
        for holder, row in held.items():
            if row.cached_tokens < row.prompt_tokens:
                continue
            made = row.cached_tokens + 1 - row.prompt_tokens
            if made == self.answers[holder.job_id]:
                self.ledger.release(holder)
                self.running.pop(holder, None)
            else:
                whole = self.running[holder].row.max_tokens
                longest = row.max_tokens if made < row.max_tokens else min(whole, 2 * made)
                self.ledger.advance(holder, row.cached_tokens + 1, longest)
        for holder, row in held.items():
            if row.cached_tokens < row.prompt_tokens:
                self.ledger.advance(holder, min(row.prompt_tokens, row.cached_tokens + CHUNK_TOKENS))
                break
        self.ledger.settle()

    def able(self, which: int) -> list[Candidate]:
        """Jobs of a class that wait and can run here."""
        return [job for job in self.queues[which] if not hopeless(self.ledger, job)]

    def _note_passed(self, which: int, at: int) -> None:
        """Who is passed: those before it in its class, the more urgent ones, and of each less urgent class the first
        where that came earlier; by one whose turn came because it, or one behind it, was passed too often, no class.
        """
        jobs, chosen = self.queues[which], self.queues[which][at]
        passed = [job for job in jobs[:at] if not hopeless(self.ledger, job)]
        if all(self.overtaken[job.job_id] < LIMITS.max_passes for job in jobs[at:]):
            passed += [job for n in range(which) for job in self.able(n)]
            heads = [job for n in range(which + 1, len(PRIORITIES)) for job in self.able(n)[:1]]
            passed += [job for job in heads if job.arrived_at < chosen.arrived_at]
        self.overtaken.update(job.job_id for job in passed)

    def _note_who_was_due_before(self, look: Look, chosen: Candidate) -> None:
        """Promises to all but the first that waits: a more urgent job, or one passed too often, went before them."""
        due = {chosen.job_id, look.first_blocked.job_id if look.first_blocked else ""}
        for job_id, promise in self.promised.items():
            if job_id not in due:
                self.promised[job_id] = replace(promise, disturbed=True)

    def _note_promise(self, look: Look) -> None:
        first = look.first_blocked
        if first is None or first.job_id in self.promised or first.job_id not in self.promises.starts_at:
            return
        alone = copy.deepcopy(self)
        alone.promised = {first.job_id: Promise(0.0, 0.0)}
        alone.queues = [[job for job in jobs if job.job_id == first.job_id] for jobs in self.queues]
        for _ in range(1000):
            if alone.claim() is not None:
                break
            alone.loop()
        else:
            raise AssertionError(f"{first.job_id} never starts, though nobody comes any more")
        self.promised[first.job_id] = Promise(self.promises.starts_at[first.job_id], alone.now)
