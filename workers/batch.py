"""One model's running jobs: what generates for them, and each job's text beside it.

A generator that raised is never used again: :meth:`ModelBatch.abandon` gives its jobs back, and the next has a fresh one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import mlx.core as mx

from scheduler.card import ModelCard
from scheduler.foresight import UNKNOWN, Extents
from workers.beginnings import Beginnings
from workers.caches import extents_of, keeps_more
from workers.engine_job import JobStep, RunningJob, advance, ended, take_token
from workers.gauge import one_at_a_time
from workers.generators import make_generator
from workers.guard import LASTING, Foreseen, Load, foresee, within
from workers.models import LoadedModel
from workers.prefixes import Prefixes
from workers.regrouping import Regrouping
from workers.stride import Stride
from workers.teaching import Teaching

_AHEAD: Final = 4
"""Times what it needs that a step may take where a device runs ahead of what is freed."""


class ModelBatch:
    """A model and the jobs that share its batch; where they cannot, each waits until the one before it has ended.

    Args:
        loaded: the model.
        card: its measured card.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together.
        max_batch: rows that decode together.
        gap_seconds: for how long prompts may keep the rows that decode waiting.
        late_errors: whether a step can fail after its tokens were had, as a GPU's can.
        held_bytes: what a device holds of a step before it lets any of it go.
        prefixes: what the engine keeps for jobs that begin alike.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        card: ModelCard,
        *,
        chunk_tokens: int,
        prefill_rows: int,
        max_batch: int,
        gap_seconds: float = math.inf,
        late_errors: bool = False,
        held_bytes: int = 0,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.loaded, self.card = loaded, card
        self.chunk_tokens, self.prefill_rows = chunk_tokens, 1 if card.alone else prefill_rows
        self._max_batch = max_batch
        self._stride = Stride(gap_seconds, chunk_tokens)
        self._jobs: dict[str, RunningJob] = {}
        self._by_uid: dict[int, RunningJob] = {}
        self._late_errors, self._held_bytes = late_errors, held_bytes
        self._ended: list[JobStep] = []  # told once the step after them has not failed
        self._generator: Any = None  # a Generator, once there was a job
        self._teaching, self._foreseen, self._lasts = Teaching(), Foreseen(), 0
        self._regrouping = Regrouping()
        self._keeps_more = any(group.kind in {"state", "linear"} for group in card.caches)
        token_bytes = sum(group.bytes_per_token for group in card.caches)
        kept = None if self._keeps_more or card.alone else prefixes
        self._beginnings = Beginnings(loaded, kept, token_bytes, self._stride.seconds, self._by_uid)
        self.computed: dict[str, int] = {}
        """Prompt tokens computed so far, of those that the last step computed some of."""
        self.reused: dict[str, int] = {}
        """Of them, what was kept of other jobs."""
        self.peak_bytes = 0  # of the last step, measured, everything in the process counted

    def __len__(self) -> int:
        return len(self._jobs) + len(self._ended)

    @property
    def running(self) -> int:
        """Jobs that are computed: the others have ended, and are yet to be told of."""
        return len(self._jobs)

    @property
    def loads(self) -> list[Load]:
        """The running jobs as the guard weighs them."""
        return [job.load for job in self._jobs.values()]

    @property
    def keys(self) -> list[str]:
        """Of all of them."""
        return [*self._jobs, *(step.key for step in self._ended)]

    @property
    def prompts(self) -> int:
        """How many jobs have prompts that are yet to be computed."""
        return sum(not job.prefilled for job in self._jobs.values())

    def add(self, job: RunningJob) -> JobStep | None:
        """Start a job, or go on with it; a job whose earlier tokens already ended it is done at once."""
        if not self._jobs:
            self._teaching.begin()
        stopped = job.text.feed(job.so_far).stopped
        if stopped or job.ends or len(job.so_far) >= job.max_tokens:
            return ended(job, "stop" if stopped else job.ends or "length", stopped=stopped)
        if self._generator is None:
            self._generator = make_generator(
                self.loaded.model,
                alone=self.card.alone,
                chunk_tokens=self.chunk_tokens,
                prefill_rows=self.prefill_rows,
                max_batch=self._max_batch,
            )
        self._jobs[job.key] = job
        self._lasts = 0
        self._teaching.joined()
        return None

    @property
    def _next_up(self) -> list[RunningJob]:
        """The jobs that the generator's next loop takes up."""
        waiting = [job for job in self._jobs.values() if job.uid is None]
        return waiting[: self._generator.takes] if waiting else []

    def remove(self, key: str) -> bool:
        """Stop a job and free its memory. False where it does not run here."""
        job = self._jobs.pop(key, None)
        if job is None:
            return False
        self._forget(job)
        self._lasts = 0
        if self._generator is not None:
            self._regrouping.look(self._generator, 0, 0)
        return True

    def step(self, budget_bytes: int, weights_bytes: int = 0) -> list[JobStep]:
        """One decode step and one prefill chunk; near the budget not a byte more than they need.

        Args:
            budget_bytes: of the engine.
            weights_bytes: of every model in it, where there are more than this.

        Returns:
            Jobs' news that somebody waits for; the others' are kept for :meth:`untold`.

        Raises:
            Exception: whatever MLX raises; :meth:`abandon` must follow.
        """
        ended, self._ended = self._ended, []
        if not self._jobs:
            mx.synchronize(self._generator.stream)
            return ended
        fresh = self._next_up
        self.reused = self._beginnings.take_up(self._generator, fresh)
        self._by_uid |= {job.uid: job for job in fresh if job.uid is not None}
        measured = self._is_measured()
        copied, self._regrouping.left_to_step = self._regrouping.left_to_step, False
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        near = before + self._spare_bytes > budget_bytes
        began = time.monotonic()
        with one_at_a_time() if measured or near else contextlib.nullcontext():
            prompts, responses = self._generator.next()
        seconds, took = time.monotonic() - began, mx.get_peak_memory() - self._beginnings.kept_bytes
        self.computed, tokens = advance(prompts, self._by_uid)
        self._stride.note(seconds, tokens, decodes=bool(responses))
        self._beginnings.keep_ended(responses, self._generator, self._spare_bytes)
        if prompts and self._keeps_more:
            # A chunk's last values, cut out of all of them.
            self._regrouping.copy(self._generator, keeps_more)
        alone = not self._regroup(budget_bytes)
        if not copied:  # a step that copies what rows left takes what no job needs
            self._weigh(before, took, weights_bytes or self.loaded.weights_bytes, measured=measured and alone)
        steps = [step for each in responses if each.uid in self._by_uid and (step := self._take(each))]
        if ends := [step for step in steps if step.result]:
            self._regroup(budget_bytes)
        if self._late_errors:
            self._ended, steps = ends, [step for step in steps if not step.result]
        return [*ended, *steps]

    def _is_measured(self) -> bool:
        """Whether the next step teaches: then it is foreseen by itself, and begins when the one before it is let go."""
        if self._regrouping.left_to_step or not self._teaching.asks_for(self._foreseen):
            return False
        mx.synchronize(self._generator.stream)
        if self._foreseen.lasts:
            self._foreseen = self._foreseen_now(0)(self.chunk_tokens)
        return True

    @property
    def _spare_bytes(self) -> int:
        """What a step may take of a device that runs ahead of what is freed."""
        return _AHEAD * self._foreseen.growth_bytes + self._held_bytes

    def foresee(self, room_bytes: int, others: Sequence[ModelBatch] = ()) -> int:
        """What the next step can add to what is in use, in bytes; its prefill chunk is shortened to fit the room.

        Args:
            room_bytes: what it may add.
            others: the engine's other batches, whose rows wait for it too.
        """
        if self._lasts > 0:
            self._lasts -= 1
            return self._foreseen.growth_bytes
        cut_bytes = self._beginnings.note(self._generator, self._next_up)
        decodes = any(each.prompts < each.running for each in (self, *others))
        models = 1 + sum(each.prompts > 0 for each in others)
        longest = self._stride.tokens(min(self.prompts, self.prefill_rows), decodes=decodes, models=models)
        chunk, self._foreseen = within(room_bytes, longest, self._foreseen_now(LASTING))
        self._lasts = self._foreseen.lasts
        if self._generator is not None:
            self._generator.shorten(chunk)
        growth = self._foreseen.growth_bytes + cut_bytes
        copies = self.cache_bytes if self._regrouping.left_to_step else 0
        if copies and growth + copies > room_bytes:  # the room has gone meanwhile
            self._regrouping.copy(self._generator)
            return growth
        return growth + copies

    def _regroup(self, budget_bytes: int) -> bool:
        """See to what rows left that came or went; whether there were any. Alone, a job takes no more than it needs."""
        budget = budget_bytes if len(self._jobs) > 1 else 0
        if seen := self._regrouping.look(self._generator, self._foreseen.growth_bytes, budget):
            self._lasts = 0
        return seen

    def _foreseen_now(self, lasting: int) -> Callable[[int], Foreseen]:
        loads, real = self.loads[: 1 if self.card.alone else None], self.extents
        return lambda tokens: foresee(self.card, loads, tokens, self.prefill_rows, real, lasting)

    @property
    def cache_bytes(self) -> int:
        """What MLX counts of the caches now."""
        return self._generator.prompt_cache_nbytes if self._generator is not None else 0

    def learnt(self) -> bool:
        """Take into the card what the steps since the last time taught; whether that changed it."""
        before, self.card = self.card, self._teaching.applied(self.card)
        return before != self.card

    def _weigh(self, before_bytes: int, jobs_bytes: int, weights_bytes: int, *, measured: bool) -> None:
        """Compare what the step took with what was foreseen."""
        self.peak_bytes = mx.get_peak_memory()
        jobs_bytes = max(jobs_bytes, self.peak_bytes - self._beginnings.kept_bytes)
        self._teaching.share(self._jobs.values(), jobs_bytes - weights_bytes)
        self._teaching.note(self._foreseen, self.peak_bytes - before_bytes if measured else None)

    def told_extents(self) -> Extents | None:
        """The caches, where more than decoding has changed them since this was asked."""
        regrouped = self._regrouping.take_note()
        return self.extents if regrouped or self.computed else None

    @property
    def extents(self) -> Extents:
        """The caches as they are."""
        if self._generator is None:
            return UNKNOWN
        lengths = {uid: job.load.length_tokens for uid, job in self._by_uid.items()}
        return extents_of(self._generator.parts, self.card.caches, lengths)

    def abandon(self) -> None:
        """Give up the generator and every job in it."""
        for each in (self._jobs, self._by_uid, self._ended):
            each.clear()
        self._lasts = 0
        self._regrouping.begin()
        self._teaching.begin()
        self._generator = None

    def untold(self) -> list[JobStep]:
        """The news of the running jobs that :meth:`step` did not return."""
        return [job.news() for job in self._jobs.values() if job.untold is not None]

    def _take(self, response: Any) -> JobStep | None:
        """A job's news where somebody waits for them: its first token, and its end."""
        job = self._by_uid[response.uid]
        first = not job.made
        stopped = take_token(job, response, self.loaded)
        reason = job.ends or response.finish_reason
        if not (stopped or reason):
            return job.news() if first else None
        self._jobs.pop(job.key)
        if response.finish_reason is None:
            self._forget(job)
        self._by_uid.pop(response.uid, None)
        return ended(job, "stop" if stopped else reason, stopped=stopped)

    def _forget(self, job: RunningJob) -> None:
        if job.uid is not None:
            if job.prefilled:
                self._beginnings.keep(job, self._generator, self._spare_bytes)
            self._by_uid.pop(job.uid, None)
            self._generator.remove([job.uid])
