"""A worker whose engine is numbers: tidegate's own admission, ledger and guard over a virtual clock.

What is played is the engine alone: mlx-lm's schedule and caches by :class:`scheduler.foresight.Life`, with the true
lengths of answers, which the admission does not know; and the seconds that its steps take on a machine.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from scheduler.admission import Candidate, Limits, choose
from scheduler.backfill import Promises
from scheduler.card import ModelCard
from scheduler.completions import Answers, Completion
from scheduler.footprint import alone_bytes, step_bytes
from scheduler.forecast import Rates
from scheduler.foresight import Life, Row, Step
from scheduler.job import PRIORITIES
from scheduler.ledger import Holder, Ledger
from scheduler.preemption import Running, victims
from scheduler.rectangles import Batch, Place
from workers.guard import Action, Load, check, youngest_of_lowest

PREFILL_ROWS = 1
LOOKAHEAD: Final = 16
AHEAD = 1.0
SHED_PRESSURE = True


@dataclass(frozen=True, slots=True)
class Machine:
    """A Mac with a model.

    Args:
        name: for the table.
        card: the model's.
        budget_bytes: what a worker there may use.
        device_bytes: what the device holds: a step beyond it runs out of memory.
        prompt_tokens_per_second: prefill.
        tokens_per_second: decode, of one sequence with a short context.
    """

    name: str
    card: ModelCard
    budget_bytes: int
    device_bytes: int
    prompt_tokens_per_second: float
    tokens_per_second: float
    chunk_tokens: int = 512

    def seconds(self, step: Step, steps: int = 1) -> float:
        """What a step takes: the weights and caches read once, and each token computed."""
        if step.kind == "prefill":
            return step.rows * step.tokens / self.prompt_tokens_per_second
        if not step.rows:
            return 0.0
        bytes_per_second = self.card.weights_bytes * self.tokens_per_second
        read = (self.card.weights_bytes + step.cache_bytes) / bytes_per_second
        return steps * (read + (step.rows - 1) / self.prompt_tokens_per_second)

    def unloaded_seconds(self, prompt_tokens: int, answer_tokens: int) -> float:
        """How long a job takes with the machine to itself."""
        key_bytes = sum(group.bytes_per_token for group in self.card.caches)
        read = key_bytes * (prompt_tokens + answer_tokens / 2) / self.card.weights_bytes
        return (
            prompt_tokens / self.prompt_tokens_per_second
            + answer_tokens * (1 + read) / self.tokens_per_second
        )


@dataclass(slots=True, eq=False)
class Job:
    """A request and what became of it; times in seconds."""

    name: str
    arrived_at: float
    prompt_tokens: int
    answer_tokens: int
    """How long its answer really is: nobody knows until it ends, but a clairvoyant."""
    max_tokens: int
    priority: str
    made: int = 0
    attempt: int = 0
    passes: int = 0
    preemptions: int = 0
    claimed_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    refused: bool = False
    place: Place | None = None
    before: int = 0
    """Tokens of its answer that were a part of this attempt's prompt."""

    @property
    def holder(self) -> Holder:
        """Its name in the ledger."""
        return Holder(self.name, self.attempt)

    @property
    def computed_tokens(self) -> int:
        """Of prompt and answer, in this attempt."""
        assert self.place is not None
        return self.place.length


@dataclass(frozen=True, slots=True)
class Policy:
    """How a worker reserves.

    Args:
        name: for the table.
        plan: how long an answer is taken to become, of a job with so many tokens, from what completions teach.
        max_batch: jobs at once.
    """

    name: str
    plan: Callable[[Job, Answers], int]
    max_batch: int = 32


@dataclass(slots=True)
class Result:
    """What a run came to."""

    jobs: list[Job]
    sheds: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    oom: int = 0
    max_passes: int = 0
    seconds: float = 0.0
    batch: float = 0.0


class _Played(Life):
    """A life that rows join and leave from outside."""

    def recount(self) -> None:
        """The caches were copied together."""
        for batch in (self.prompts, self.decoding):
            batch.copied_bytes = 0
        self._prompts_bytes, self._decoding_bytes = self.prompts.held_bytes, self.decoding.held_bytes

    def twin(self) -> _Played:
        """A copy, to look ahead on."""
        other = _Played((), (), self._chunk_tokens, PREFILL_ROWS, (None, None))
        other.waiting = [replace(place) for place in self.waiting]
        other.prompts, other.decoding = _twin(self.prompts), _twin(self.decoding)
        other._prompts_bytes, other._decoding_bytes = self._prompts_bytes, self._decoding_bytes
        return other


def _twin(batch: Batch) -> Batch:
    other = Batch(())
    other.places = [replace(place) for place in batch.places]
    other.caches = [slots.twin() for slots in batch.caches]
    other.index, other.copied_bytes = batch.index, batch.copied_bytes
    return other


class Engine:
    """The batch, as the engine has it: with the true lengths."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.life = _Played(machine.card.caches, (), machine.chunk_tokens, PREFILL_ROWS, (None, None), leaps=True)
        self.jobs: dict[int, Job] = {}

    def add(self, job: Job) -> None:
        """A job's prompt waits to be computed; with what was made of its answer before."""
        job.before = job.made
        place = job.place = Place(job.prompt_tokens + job.made, 0, job.answer_tokens - job.made)
        self.jobs[id(place)] = job
        self.life.waiting.append(place)

    def drop(self, job: Job) -> None:
        """A job leaves before its end; what it left is copied together."""
        place, life = job.place, self.life
        assert place is not None
        del self.jobs[id(place)]
        if place in life.waiting:
            life.waiting.remove(place)
        for batch in (life.prompts, life.decoding):
            if place in batch.places:
                batch.keep([each for each in batch.places if each is not place])
        life.recount()

    def foresee(self) -> list[Step]:
        """The steps of the next loop, on a copy."""
        return next(self.life.twin().loops, [])

    def step(self, leap_tokens: int) -> tuple[list[Step], int, list[Job]]:
        """One loop, or several in which nothing but lengths changes: its steps, how many loops, who ended."""
        life = self.life
        before = life.loop
        life.leap_tokens = max(1, leap_tokens)
        steps = next(life.loops)
        loops = life.loop - before + 1
        life.loop += 1
        there = {id(place) for batch in (life.waiting, life.prompts.places, life.decoding.places) for place in batch}
        ended = [job for key, job in self.jobs.items() if key not in there]
        for job in ended:
            assert job.place is not None
            del self.jobs[id(job.place)]
        for job in self.jobs.values():
            place = job.place
            assert place is not None
            job.made = job.answer_tokens - place.answer if place.prompt == 0 else job.before
        return steps, loops, ended


class Worker:
    """One machine under one policy, fed with jobs.

    Args:
        machine: where.
        policy: how it reserves.
        target_wait_seconds: a job that would wait longer is refused.
    """

    def __init__(self, machine: Machine, policy: Policy, target_wait_seconds: float = math.inf) -> None:
        self.machine, self.policy = machine, policy
        self.target = target_wait_seconds
        self.engine = Engine(machine)
        self.ledger = Ledger(machine.budget_bytes, machine.chunk_tokens, PREFILL_ROWS)
        self.ledger.admit_model(machine.card)
        self.queues: dict[str, deque[Job]] = {name: deque() for name in PRIORITIES}
        self.limits = Limits(policy.max_batch, 64)
        self.promises = Promises()
        self.history: deque[Completion] = deque(maxlen=1024)
        self.answers = Answers()
        self.rates: Rates | None = None
        self.work: deque[tuple[float, float]] = deque()
        self.now = 0.0
        self.running: dict[str, Job] = {}
        self.dirty = True
        self.result = Result([])
        self.busy_rows = 0.0

    def run(self, jobs: Sequence[Job]) -> Result:
        """Play until every job ended."""
        self.result.jobs = list(jobs)
        arrivals = deque(jobs)
        while arrivals or self.running or any(self.queues.values()):
            while arrivals and arrivals[0].arrived_at <= self.now:
                self.submit(arrivals.popleft())
            while self.dirty and self.claim():
                pass
            self.dirty = False
            if self.running:
                self.step(arrivals[0].arrived_at if arrivals else math.inf)
            elif arrivals:
                self.now = max(self.now, arrivals[0].arrived_at)
            elif any(self.queues.values()):
                self.dirty = True
                self.now += 1.0
        self.result.seconds = self.now
        self.result.batch = self.busy_rows / self.now
        return self.result

    def submit(self, job: Job) -> None:
        row = Row(job.prompt_tokens, job.max_tokens)
        if alone_bytes(self.machine.card, row, self.machine.chunk_tokens) > self.machine.budget_bytes:
            job.refused = True
            return
        if self.wait_seconds(job.priority) > self.target:
            job.refused = True
            return
        queue = self.queues[job.priority]
        queue.append(job)
        if len(queue) <= LOOKAHEAD:
            self.dirty = True

    def work_of(self, job: Job) -> float:
        return job.prompt_tokens / self.machine.prompt_tokens_per_second + self.answers.mean(
            job.max_tokens
        ) * self._token_seconds

    @property
    def _token_seconds(self) -> float:
        # at the batch's usual size
        return 1 / self.machine.tokens_per_second / max(1.0, len(self.running))

    def wait_seconds(self, priority: str) -> float:
        ahead = PRIORITIES[: PRIORITIES.index(priority) + 1]
        return sum(self.work_of(job) for name in ahead for job in self.queues[name])

    def candidate(self, job: Job) -> Candidate:
        return Candidate(
            job.name,
            self.machine.card.model,
            Row(job.prompt_tokens + job.made, job.max_tokens - job.made),
            passes=job.passes,
            answer_tokens=max(1, self.policy.plan(job, self.answers) - job.made),
            arrived_at=job.arrived_at,
        )

    def replan(self) -> None:
        for job in self.running.values():
            planned = max(1, self.policy.plan(job, self.answers) - job.before)
            self.ledger.advance(job.holder, job.computed_tokens, planned)
        self.ledger.settle()

    def claim(self) -> bool:
        if not any(self.queues.values()):
            return False
        if self.ahead():
            return False
        self.replan()
        heads = [[*self.queues[name]][:LOOKAHEAD] if len(self.queues[name]) <= LOOKAHEAD else [self.queues[name][n] for n in range(LOOKAHEAD)] for name in PRIORITIES]
        by_name = {job.name: job for head in heads for job in head}
        look = choose([[self.candidate(job) for job in head] for head in heads], self.ledger, self.now, self.limits, self.rates, self.promises)
        if look.choice is None:
            return self.preempt(look.first_blocked and by_name[look.first_blocked.job_id])
        for name in look.choice.passed:
            by_name[name].passes += 1
            self.result.max_passes = max(self.result.max_passes, by_name[name].passes)
        job = by_name[look.choice.candidate.job_id]
        self.queues[job.priority].remove(job)
        job.attempt += 1
        job.claimed_at = self.now
        job.started_at = job.started_at if job.started_at is not None else self.now
        self.ledger.reserve(job.holder, self.machine.card.model, look.choice.row)
        self.running[job.name] = job
        self.engine.add(job)
        return True

    def ahead(self) -> bool:
        c = self.rates.prompt_token_seconds if self.rates else 0.0
        return c * sum(max(0,job.place.prompt) for job in self.running.values()) > AHEAD

    def preempt(self, urgent: Job | None) -> bool:
        if urgent is None or urgent.priority != PRIORITIES[0]:
            return False
        running = [Running(job.holder, job.priority, job.claimed_at, job.preemptions) for job in self.running.values()]
        chosen = victims(self.candidate(urgent), running, self.ledger, self.now, max_batch=self.limits.max_batch, max_preemptions=3)
        lost = sum(self.running[h.job_id].computed_tokens for h in chosen) * (self.rates.prompt_token_seconds if self.rates else 0)
        saved = self.promises.starts_at.get(urgent.name, math.inf) - self.now
        if saved < 2 * lost:
            return False
        for holder in chosen:
            job = self.running[holder.job_id]
            job.preemptions += 1
            self.result.preemptions += 1
            self.put_back(job)
        return bool(chosen)

    def put_back(self, job: Job) -> None:
        self.result.recomputed_tokens += job.computed_tokens
        self.engine.drop(job)
        self.ledger.release(job.holder)
        del self.running[job.name]
        self.queues[job.priority].appendleft(job)
        self.dirty = True

    def step(self, until: float) -> None:
        weights = self.machine.card.weights_bytes
        life = self.engine.life
        while True:
            held = weights + life.held_bytes
            steps = self.engine.foresee()
            most = max((step_bytes(self.machine.card, each) for each in steps), default=0)
            action = check(held, 0, weights + most - held, self.machine.budget_bytes, len(self.running))
            if action is not Action.SHED:
                break
            loads = [Load(job.name, job.priority, job.claimed_at, 0, 0) for job in self.running.values()]
            job = self.running[youngest_of_lowest(loads).key]
            self.result.sheds += 1
            self.put_back(job)
            if SHED_PRESSURE:
                self.ledger.ran_out(self.now)
        rows = len(life.decoding.places)
        first = sum(self.machine.seconds(each) for each in steps)
        leap = 64 if until == math.inf else int(max(0.0, until - self.now) / first) + 1
        steps, loops, ended = self.engine.step(min(leap, 64))
        if weights + max(step_bytes(self.machine.card, each) for each in steps) > self.machine.device_bytes:
            self.result.oom += 1
        decode = sum(self.machine.seconds(each, loops) for each in steps if each.kind == "decode")
        prefill = sum(self.machine.seconds(each) for each in steps if each.kind == "prefill")
        tokens = sum(each.rows * each.tokens for each in steps if each.kind == "prefill")
        if tokens:
            self.dirty = True
        self.now += decode + prefill
        self.busy_rows += rows * (decode + prefill)
        self.measure(decode / loops, prefill, tokens)
        for job in ended:
            job.ended_at = self.now
            job.made = job.answer_tokens
            self.ledger.release(job.holder)
            del self.running[job.name]
            self.history.appendleft(Completion(job.answer_tokens, job.answer_tokens >= job.max_tokens))
            if len(self.history) < 64 or len(self.history) % 8 == 0 or True:
                self.answers_dirty = True
            self.dirty = True
        if ended:
            self.answers = Answers(tuple(self.history))

    def measure(self, step: float, prefill: float, tokens: int) -> None:
        old = self.rates or Rates(step, prefill / tokens if tokens else 0.0)
        s = old.step_seconds + 0.1 * (step - old.step_seconds) if step else old.step_seconds
        c = old.prompt_token_seconds
        if tokens:
            c = c + 0.1 * (prefill / tokens - c) if c else prefill / tokens
        self.rates = Rates(s, c)
