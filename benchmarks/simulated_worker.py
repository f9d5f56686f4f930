"""A worker over a virtual clock: tidegate's own admission, ledger, plans and guard around an engine of numbers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from benchmarks.simulation import PREFILL_ROWS, Engine, Machine, Request
from scheduler.admission import Candidate, Limits, choose
from scheduler.backfill import Promises
from scheduler.batch_account import Holder
from scheduler.completions import KEPT, Answers, Completion
from scheduler.footprint import alone_bytes
from scheduler.foresight import Row
from scheduler.job import PRIORITIES
from scheduler.ledger import Ledger
from scheduler.preemption import Running, victims
from workers.guard import Action, Load, check, youngest_of_lowest
from workers.pace import Loops

LOOKAHEAD: Final = 16
MAX_PASSES: Final = 64
MAX_PREEMPTIONS: Final = 3
PREFILL_AHEAD_SECONDS: Final = 1.0

_LEAP_TOKENS: Final = 64
_TICK_SECONDS: Final = 1.0
_CALM: Final = 2.5
"""Times its caches that a batch takes at most while one of its layers grows: below that the guard need not look."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a worker reserves.

    Args:
        name: for the table.
        plan: how long all of an answer is taken to become: of a request that has made so many tokens.
        max_batch: jobs at once.
    """

    name: str
    plan: Callable[[Request, int, Answers], int]
    max_batch: int = 32


@dataclass(slots=True, eq=False)
class Fate:
    """What became of a request; times in seconds."""

    request: Request
    refused: bool = False
    attempt: int = 0
    made: int = 0
    passes: int = 0
    preemptions: int = 0
    claimed_at: float = 0.0
    started_at: float = math.inf
    ended_at: float = math.inf

    @property
    def holder(self) -> Holder:
        """Its name in the ledger."""
        return Holder(self.request.name, self.attempt)


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    fates: list[Fate]
    seconds: float = 0.0
    sheds: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    oom: int = 0
    max_passes: int = 0
    rows: float = 0.0
    """Jobs in the engine, on average over the time."""
    padding_share: float = 0.0
    """Of the decoding batch's slots, likewise."""
    queues: dict[str, deque[Fate]] = field(default_factory=lambda: {name: deque() for name in PRIORITIES})


class SimulatedWorker:
    """One machine under one policy.

    Args:
        machine: where.
        policy: how it reserves.
        target_wait_seconds: a request is refused where more work waits before it.
    """

    def __init__(self, machine: Machine, policy: Policy, target_wait_seconds: float) -> None:
        self._machine, self._policy, self._target = machine, policy, target_wait_seconds
        self._engine = Engine(machine)
        self._ledger = Ledger(machine.budget_bytes, machine.chunk_tokens, PREFILL_ROWS)
        self._ledger.admit_model(machine.card)
        self._limits = Limits(policy.max_batch, MAX_PASSES, PREFILL_AHEAD_SECONDS)
        self._promises, self._loops = Promises(), Loops()
        self._history: deque[Completion] = deque(maxlen=KEPT)
        self._answers = Answers()
        self._running: dict[str, Fate] = {}
        self._now = 0.0
        self._worth_claiming = True
        self._outcome = Outcome([])

    def run(self, requests: Sequence[Request]) -> Outcome:
        """Play until every request ended."""
        arrivals = deque(Fate(request) for request in requests)
        self._outcome = Outcome(list(arrivals))
        while arrivals or self._running or any(self._outcome.queues.values()):
            while arrivals and arrivals[0].request.arrived_at <= self._now:
                self._submit(arrivals.popleft())
            while self._worth_claiming and self._claim():
                pass
            self._worth_claiming = False
            until = arrivals[0].request.arrived_at if arrivals else math.inf
            if self._running:
                self._step(until)
            else:
                self._now = min(max(self._now, until), self._now + _TICK_SECONDS)
                self._worth_claiming = True
        self._outcome.seconds = self._now
        self._outcome.rows /= self._now
        self._outcome.padding_share /= self._now
        return self._outcome

    def _submit(self, fate: Fate) -> None:
        request, machine = fate.request, self._machine
        row = Row(request.prompt_tokens, request.max_tokens)
        never = alone_bytes(machine.card, row, machine.chunk_tokens) > machine.budget_bytes
        if never or self._wait_seconds(request.priority) > self._target:
            fate.refused = True
            return
        queue = self._outcome.queues[request.priority]
        queue.append(fate)
        self._worth_claiming = self._worth_claiming or len(queue) <= LOOKAHEAD

    def _wait_seconds(self, priority: str) -> float:
        """The work that waits before a request, by the rates that were measured."""
        rates = self._loops.rates
        if rates is None:
            return 0.0
        each = rates.step_seconds / max(1, len(self._running))
        ahead = PRIORITIES[: PRIORITIES.index(priority) + 1]
        return sum(
            fate.request.prompt_tokens * rates.prompt_token_seconds
            + self._answers.mean(fate.request.max_tokens) * each
            for name in ahead
            for fate in self._outcome.queues[name]
        )

    def _candidate(self, fate: Fate) -> Candidate:
        request = fate.request
        return Candidate(
            request.name,
            self._machine.card.model,
            Row(request.prompt_tokens + fate.made, request.max_tokens - fate.made),
            passes=fate.passes,
            answer_tokens=self._planned(request, fate.made, fate.made),
            arrived_at=request.arrived_at,
            priority=request.priority,
        )

    def _planned(self, request: Request, made: int, before: int) -> int:
        """Of its answer, in this attempt."""
        return max(1, self._policy.plan(request, made, self._answers) - before)

    def _tell_progress(self) -> None:
        for name, job in self._engine.jobs.items():
            planned = self._planned(job.request, job.made, job.before)
            self._ledger.advance(self._running[name].holder, job.place.length, planned)
        self._ledger.settle()

    def _claim(self) -> bool:
        queues = self._outcome.queues
        if not any(queues.values()):
            return False
        self._tell_progress()
        heads = [list(islice(queues[name], LOOKAHEAD)) for name in PRIORITIES]
        fates = {fate.request.name: fate for head in heads for fate in head}
        classes = [[self._candidate(fate) for fate in head] for head in heads]
        rates = self._loops.rates
        look = choose(classes, self._ledger, self._now, self._limits, rates, self._promises)
        if look.choice is None:
            return look.first_blocked is not None and self._preempt(look.first_blocked)
        for name in look.choice.passed:
            fates[name].passes += 1
            self._outcome.max_passes = max(self._outcome.max_passes, fates[name].passes)
        fate = fates[look.choice.candidate.job_id]
        queues[fate.request.priority].remove(fate)
        fate.attempt += 1
        fate.claimed_at, fate.started_at = self._now, min(fate.started_at, self._now)
        urgent = fate.request.priority == PRIORITIES[0]
        self._ledger.reserve(fate.holder, self._machine.card.model, look.choice.row, urgent=urgent)
        self._running[fate.request.name] = fate
        self._engine.add(fate.request, fate.made)
        return True

    def _preempt(self, urgent: Candidate) -> bool:
        chosen = victims(
            urgent,
            [
                Running(fate.holder, fate.request.priority, fate.claimed_at, fate.preemptions)
                for fate in self._running.values()
            ],
            self._ledger,
            self._now,
            rates=self._loops.rates,
            starts_at=self._promises.starts_at.get(urgent.job_id, math.inf),
            max_batch=self._limits.max_batch,
            max_preemptions=MAX_PREEMPTIONS,
        )
        for holder in chosen:
            self._running[holder.job_id].preemptions += 1
            self._outcome.preemptions += 1
            self._put_back(holder.job_id)
        return bool(chosen)

    def _put_back(self, name: str) -> None:
        fate, job = self._running.pop(name), self._engine.drop(name)
        self._outcome.recomputed_tokens += job.place.length
        fate.made = job.made
        self._ledger.release(fate.holder)
        self._outcome.queues[fate.request.priority].appendleft(fate)
        self._worth_claiming = True

    def _guard(self) -> None:
        """What the engine does before each loop."""
        machine, life = self._machine, self._engine.life
        if machine.card.weights_bytes + _CALM * life.held_bytes < 0.9 * machine.budget_bytes:
            return
        while True:
            used = self._engine.used_bytes
            growth = self._engine.foresee() - used
            if check(used, 0, growth, machine.budget_bytes, len(self._running), dropped=True) is Action.GO:
                return
            loads = [
                Load(name, fate.request.priority, fate.claimed_at, 0, 0)
                for name, fate in self._running.items()
            ]
            self._put_back(youngest_of_lowest(loads).key)
            self._outcome.sheds += 1
            self._ledger.ran_out(self._now)

    def _step(self, until_seconds: float) -> None:
        self._guard()
        rates = self._loops.rates
        leap = 1
        if rates is not None and rates.step_seconds:
            leap = int(min(_LEAP_TOKENS, max(0.0, until_seconds - self._now) / rates.step_seconds))
        padding, rows = self._engine.padding_share, len(self._running)
        loop = self._engine.step(leap)
        self._now += loop.seconds
        self._outcome.rows += rows * loop.seconds
        self._outcome.padding_share += padding * loop.seconds
        for _ in range(min(loop.loops, 16)):  # more loops alike change no median
            self._loops.note(loop.seconds / loop.loops, loop.prompt_tokens)
        self._outcome.oom += loop.most_bytes > self._machine.device_bytes
        self._worth_claiming = self._worth_claiming or bool(loop.prompt_tokens or loop.ended)
        for job in loop.ended:
            fate = self._running.pop(job.request.name)
            fate.ended_at = self._now
            self._ledger.release(fate.holder)
            length = job.request.answer_tokens
            self._history.appendleft(Completion(length, cut=length >= job.request.max_tokens))
        if loop.ended:
            self._answers = Answers(tuple(self._history))
