"""An engine of numbers: mlx-lm's schedule and caches with the true lengths of answers, and a machine's seconds.

The schedule and the caches are :class:`scheduler.foresight.Life`, which is compared with mlx-lm's own to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from scheduler.card import ModelCard
from scheduler.footprint import step_bytes
from scheduler.foresight import Life, Step
from scheduler.rectangles import Batch, Place

PREFILL_ROWS: Final = 4


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
        chunk_tokens: the prefill chunk.
    """

    name: str
    card: ModelCard
    budget_bytes: int
    device_bytes: int
    prompt_tokens_per_second: float
    tokens_per_second: float
    chunk_tokens: int = 512

    def seconds(self, step: Step) -> float:
        """What a step takes: the weights and caches read once, and each token computed."""
        if step.kind == "prefill":
            return step.rows * step.tokens / self.prompt_tokens_per_second
        if not step.rows:
            return 0.0
        bytes_per_second = self.card.weights_bytes * self.tokens_per_second
        read = (self.card.weights_bytes + step.cache_bytes) / bytes_per_second
        return read + (step.rows - 1) / self.prompt_tokens_per_second

    def unloaded_seconds(self, prompt_tokens: int, answer_tokens: int) -> float:
        """How long a job takes with the machine to itself."""
        key_bytes = sum(group.bytes_per_token for group in self.card.caches)
        read = key_bytes * (prompt_tokens + answer_tokens / 2) / self.card.weights_bytes
        return (
            prompt_tokens / self.prompt_tokens_per_second
            + answer_tokens * (1 + read) / self.tokens_per_second
        )


@dataclass(slots=True, eq=False)
class Request:
    """What a client asks, in tokens and seconds; how long its answer really is nobody knows until it ends."""

    name: str
    arrived_at: float
    prompt_tokens: int
    answer_tokens: int
    max_tokens: int
    priority: str


@dataclass(slots=True, eq=False)
class Job:
    """A request that the engine computes: its place in the batch, and what it had before."""

    request: Request
    place: Place
    before: int
    """Tokens of its answer that are a part of this attempt's prompt."""

    @property
    def made(self) -> int:
        """Tokens of its answer so far."""
        return self.before if self.place.prompt else self.request.answer_tokens - self.place.answer


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
    """The batch as the engine has it, with the true lengths.

    Args:
        machine: where it computes.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.life = _Played(
            machine.card.caches, (), machine.chunk_tokens, PREFILL_ROWS, (None, None), leaps=True
        )
        self.jobs: dict[str, Job] = {}

    @property
    def used_bytes(self) -> int:
        """Weights and caches."""
        return self.machine.card.weights_bytes + self.life.held_bytes

    @property
    def padding_share(self) -> float:
        """Of the slots of rows that decode, those that hold nothing but padding up to the longest row."""
        batch = self.life.decoding
        slots = len(batch.places) * batch.index
        return 1 - sum(place.length for place in batch.places) / slots if slots else 0.0

    def add(self, request: Request, made: int) -> None:
        """A job's prompt waits to be computed, and with it what was made of its answer before."""
        place = Place(request.prompt_tokens + made, 0, request.answer_tokens - made)
        self.jobs[request.name] = Job(request, place, made)
        self.life.waiting.append(place)

    def drop(self, name: str) -> Job:
        """A job leaves before its end; what it left is copied together."""
        job = self.jobs.pop(name)
        if job.place in self.life.waiting:
            self.life.waiting.remove(job.place)
        for batch in (self.life.prompts, self.life.decoding):
            if job.place in batch.places:
                batch.keep([each for each in batch.places if each is not job.place])
        self.life.recount()
        return job

    def foresee(self) -> int:
        """The most that the next loop takes in memory, weights counted."""
        steps = next(self.life.twin().loops)
        return self._most(steps)

    def _most(self, steps: list[Step]) -> int:
        card = self.machine.card
        return card.weights_bytes + max(step_bytes(card, each) for each in steps)

    def step(self, leap_tokens: int) -> Loop:
        """One loop, or as many as change nothing but lengths, at most so many."""
        life = self.life
        before, life.leap_tokens = life.loop, max(1, leap_tokens)
        steps = next(life.loops)
        loops = life.loop - before + 1
        life.loop += 1
        here = {id(p) for places in (life.waiting, life.prompts.places, life.decoding.places) for p in places}
        ended = [job for job in self.jobs.values() if id(job.place) not in here]
        for job in ended:
            del self.jobs[job.request.name]
        prompts = [each for each in steps if each.kind == "prefill"]
        return Loop(
            loops=loops,
            decode_seconds=loops * sum(self.machine.seconds(each) for each in steps if each.kind == "decode"),
            prefill_seconds=sum(map(self.machine.seconds, prompts)),
            prompt_tokens=sum(each.rows * each.tokens for each in prompts),
            most_bytes=self._most(steps),
            ended=ended,
        )


@dataclass(frozen=True, slots=True)
class Loop:
    """What a loop took, and whose answers ended in it."""

    loops: int
    decode_seconds: float
    prefill_seconds: float
    prompt_tokens: int
    most_bytes: int
    ended: list[Job]

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.decode_seconds + self.prefill_seconds
