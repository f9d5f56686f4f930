"""One model's running jobs: mlx-lm's BatchGenerator, and each job's text beside it.

A generator that raised is never used again: :meth:`ModelBatch.abandon` gives its jobs back, and the
next one starts a fresh generator.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from scheduler.card import ModelCard
from scheduler.foresight import UNKNOWN, Extents
from workers.beginnings import Beginnings
from workers.caches import extent_of, flat, is_state, make_whole
from workers.engine_job import JobStep, RunningJob, ended, logprob_entry
from workers.gauge import one_at_a_time
from workers.guard import Foreseen, Load, foresee, within
from workers.models import LoadedModel
from workers.prefixes import Prefixes
from workers.teaching import Teaching
from workers.text import Piece

# mlx-lm wires memory in BatchGenerator's constructor. Wiring is implicated in kernel panics
# (ml-explore/mlx#3186), so it is an operator's explicit choice and never ours.
setattr(importlib.import_module("mlx_lm.generate"), "maybe_set_recommended_wired_limit", lambda: None)  # noqa: B010


_AHEAD: Final = 4
"""Times what it needs that a step may take where a device runs ahead of what is freed."""


class ModelBatch:
    """A model and the jobs that share its batch.

    Args:
        loaded: the model.
        card: its measured card.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together.
        max_batch: rows that decode together.
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
        prefixes: Prefixes | None = None,
    ) -> None:
        self.loaded, self.card = loaded, card
        self.chunk_tokens, self.prefill_rows = chunk_tokens, prefill_rows
        self._max_batch = max(max_batch, prefill_rows)  # as the generator takes them
        self._jobs: dict[str, RunningJob] = {}
        self._by_uid: dict[int, RunningJob] = {}
        self._generator: Any = None
        self._teaching = Teaching()
        self._foreseen = Foreseen()
        self._members_then: tuple[list[int], list[int]] = ([], [])
        self._regrouped = False
        self._has_states = any(group.kind == "state" for group in card.caches)
        self._beginnings = Beginnings(loaded, None if self._has_states else prefixes)
        self.reused: dict[str, int] = {}
        """Of :attr:`computed`, what was kept of other jobs."""
        self.computed: dict[str, int] = {}
        """Prompt tokens computed so far, of those that the last step computed some of."""
        self.peak_bytes = 0
        """Of the last step, measured, everything in the process counted."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def loads(self) -> list[Load]:
        """The running jobs as the guard weighs them."""
        return [job.load for job in self._jobs.values()]

    @property
    def keys(self) -> list[str]:
        """The running jobs' keys."""
        return list(self._jobs)

    @property
    def prefilling(self) -> bool:
        """Whether the next step computes a chunk of a prompt."""
        return any(not job.prefilled for job in self._jobs.values())

    def add(self, job: RunningJob) -> JobStep | None:
        """Start a job, or go on with it; a job whose earlier tokens already ended it is done at once."""
        if not self._jobs:
            self._teaching.begin()
        stopped = job.text.feed(job.so_far).stopped
        if stopped or len(job.so_far) >= job.max_tokens:
            return ended(job, JobStep(job.key, []), "stop" if stopped else "length", Piece(stopped=stopped))
        if self._generator is None:
            self._generator = BatchGenerator(
                self.loaded.model,
                completion_batch_size=self._max_batch,
                prefill_batch_size=self.prefill_rows,
                prefill_step_size=self.chunk_tokens,
            )
        self._jobs[job.key] = job
        return None

    @property
    def _next_up(self) -> list[RunningJob]:
        """The jobs that the generator's next loop takes up."""
        waiting = [job for job in self._jobs.values() if job.uid is None]
        if not waiting:
            return []
        prompts, decoding = map(len, self._parts)
        return waiting[: max(0, min(self.prefill_rows - prompts, self._max_batch - decoding))]

    def remove(self, key: str) -> bool:
        """Stop a job and free its memory. False where it does not run here."""
        job = self._jobs.pop(key, None)
        if job is None:
            return False
        self._forget(job)
        self._regroup()
        return True

    def step(self, budget_bytes: int, weights_bytes: int = 0) -> list[JobStep]:
        """One decode step and one prefill chunk; near the budget not a byte more than they need.

        Args:
            budget_bytes: of the engine.
            weights_bytes: of every model in it, where there are more than this.

        Raises:
            Exception: whatever MLX raises; :meth:`abandon` must follow.
        """
        fresh = self._next_up
        self.reused = self._beginnings.take_up(self._generator, fresh)
        self._by_uid |= {job.uid: job for job in fresh if job.uid is not None}
        measured = self._teaching.asks_for(self._foreseen)
        if measured:
            mx.synchronize(self._generator.stream)  # the step before is let go first
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        near = before + _AHEAD * self._foreseen.growth_bytes > budget_bytes
        with one_at_a_time() if measured or near else contextlib.nullcontext():
            prompts, responses = self._generator.next()
        took = mx.get_peak_memory() - self._beginnings.kept_bytes
        self.computed = {}
        for response in prompts:
            job = self._by_uid[response.uid]
            job.prefilled, job.computed = response.end_of_prompt, job.reused + response.progress[0]
            self.computed[job.key] = job.computed
        for response in responses:
            if response.prompt_cache is not None:
                self._keep(self._by_uid[response.uid], response)
            response.prompt_cache = None  # an ended row's copy to be, which would hold the whole batch's
        if prompts and self._has_states:
            self._make_whole(is_state)  # a chunk's last values, cut out of all of them
        alone = not self._regroup()
        self._weigh(before, took, weights_bytes or self.loaded.weights_bytes, measured=measured and alone)
        for response in prompts:
            if response.end_of_prompt:
                self._keep(self._by_uid[response.uid], begun=True)
        steps = [self._take(response) for response in responses if response.uid in self._by_uid]
        if any(step.result for step in steps):
            self._regroup()
            mx.synchronize(self._generator.stream)  # errors can surface late: before success is told
        return steps

    def foresee(self, room_bytes: int) -> int:
        """What the next step can add to what is in use, in bytes; its prefill chunk is shortened to fit the room."""
        self._beginnings.note(self._next_up)
        loads, real = self.loads, self.extents
        chunk, self._foreseen = within(
            room_bytes,
            self.chunk_tokens,
            lambda tokens: foresee(self.card, loads, tokens, self.prefill_rows, real),
        )
        if self._generator is not None:
            for part in (self._generator, self._parts[0]):
                part.prefill_step_size = chunk  # both read it at every loop
        return self._foreseen.growth_bytes

    @property
    def cache_bytes(self) -> int:
        """What MLX counts of the caches now."""
        return int(self._generator.prompt_cache_nbytes) if self._generator is not None else 0

    def learnt(self) -> bool:
        """Take into the card what the steps since the last time taught; whether that changed it."""
        card = self._teaching.applied(self.card)
        changed, self.card = card != self.card, card
        return changed

    def _weigh(self, before_bytes: int, jobs_bytes: int, weights_bytes: int, *, measured: bool) -> None:
        """Compare what the step took with what was foreseen."""
        self.peak_bytes = mx.get_peak_memory()
        jobs_bytes = max(jobs_bytes, self.peak_bytes - self._beginnings.kept_bytes)
        share = (jobs_bytes - weights_bytes) // max(1, len(self._jobs))
        for job in self._jobs.values():
            job.peak_bytes = max(job.peak_bytes, share)
        self._teaching.note(self._foreseen, self.peak_bytes - before_bytes if measured else None)

    @property
    def _members(self) -> tuple[list[int], list[int]]:
        """Whose caches the generator has: of prompts, and of rows that decode."""
        prompts, decoding = self._parts
        return [*prompts.uids], [*decoding.uids]

    @property
    def _parts(self) -> tuple[Any, Any]:
        """The generator's two batches; mlx-lm shows them nowhere else."""
        return self._generator._prompt_batch, self._generator._generation_batch  # noqa: SLF001

    def told_extents(self) -> Extents | None:
        """The caches, where more than decoding has changed them since this was asked."""
        changed, self._regrouped = self._regrouped or bool(self.computed), False
        return self.extents if changed else None

    @property
    def extents(self) -> Extents:
        """The caches as they are."""
        if self._generator is None:
            return UNKNOWN
        prompts, decoding = (
            extent_of(
                part.prompt_cache,
                self.card.caches,
                [self._by_uid[uid].load.length_tokens for uid in part.uids],
            )
            for part in self._parts
        )
        return prompts, decoding

    def _regroup(self) -> bool:
        """Where rows came or went, copy together what they left, a layer at a time: until then all is held."""
        (prompts, decoding), self._members_then = self._members_then, self._members
        if decoding == self._members_then[1] and prompts == self._members_then[0][: len(prompts)]:
            return False  # new prompts were copied with their first chunk
        self._regrouped = True
        self._make_whole(lambda _: True)
        return True

    def _make_whole(self, which: Callable[[Any], bool]) -> None:
        with one_at_a_time(), mx.stream(self._generator.stream):
            for part in self._parts:
                for cache in flat(part.prompt_cache):
                    if which(cache):
                        make_whole(cache)
            mx.synchronize()

    def abandon(self) -> None:
        """Give up the generator and every job in it."""
        self._jobs.clear()
        self._by_uid.clear()
        self._teaching.begin()
        self._members_then = ([], [])
        self._generator = None

    def _take(self, response: Any) -> JobStep:
        job = self._by_uid[response.uid]
        step = JobStep(job.key, [])
        piece = Piece()
        if response.finish_reason != "stop":
            job.made.append(response.token)
            step.tokens = [response.token]
            piece = job.text.feed(step.tokens)
            if job.request.logprobs is not None:
                step.logprobs = [
                    logprob_entry(self.loaded, response.logprobs, response.token, job.request.logprobs)
                ]
        step.text, step.reasoning = piece.text, piece.reasoning
        if piece.stopped or response.finish_reason is not None:
            self._jobs.pop(job.key)
            if response.finish_reason is None:
                self._keep(job)
                self._forget(job)
            self._by_uid.pop(response.uid, None)
            return ended(job, step, "stop" if piece.stopped else response.finish_reason, piece)
        return step

    def _keep(self, job: RunningJob, left: Any = None, *, begun: bool = False) -> None:
        spare = _AHEAD * self._foreseen.growth_bytes
        self._beginnings.keep(job, self._generator, spare, left, begun=begun)

    def _forget(self, job: RunningJob) -> None:
        if job.uid is not None:
            self._by_uid.pop(job.uid, None)
            self._generator.remove([job.uid])
