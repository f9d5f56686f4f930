"""One model's running jobs: what generates for them, and each job's text beside it.

A generator that raised is never used again: :meth:`ModelBatch.abandon` gives its jobs back, and the
next one starts a fresh generator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
from mlx_lm.generate import StopSequences

from scheduler.card import ModelCard
from scheduler.foresight import UNKNOWN, Extents, Kind
from scheduler.learning import Margins
from workers.caches import extent_of, flat, keeps_more, make_whole
from workers.engine_job import JobStep, RunningJob, ended, logprob_entry
from workers.gauge import one_at_a_time
from workers.generators import Part, make_generator
from workers.guard import Foreseen, Load, foresee, within
from workers.models import LoadedModel
from workers.sampling import make_processors, make_sampler
from workers.text import Piece

_AHEAD: Final = 4
"""Times what it needs that a step may take where a device runs ahead of what is freed."""

_MEASURED_FIRST: Final = 8
_MEASURED_EVERY: Final = 32
"""Of the steps that could teach, the first few and then one in so many are held back to do so."""


class ModelBatch:
    """A model and the jobs that share its batch; where they cannot, each waits until the one before it has ended.

    Args:
        loaded: the model.
        card: its measured card.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together.
        max_batch: rows that decode together.
    """

    def __init__(
        self, loaded: LoadedModel, card: ModelCard, *, chunk_tokens: int, prefill_rows: int, max_batch: int
    ) -> None:
        self.loaded, self.card = loaded, card
        self.chunk_tokens, self.prefill_rows, self._max_batch = chunk_tokens, prefill_rows, max_batch
        if card.alone:
            self.prefill_rows = self._max_batch = 1
        self._jobs: dict[str, RunningJob] = {}
        self._by_uid: dict[int, RunningJob] = {}
        self._generator: Any = None  # a Generator, once there was a job
        self._margins = Margins()
        self._steps_seen: dict[Kind, int] = {"prefill": 0, "decode": 0}
        self._foreseen = Foreseen()
        self._most_bytes = 0
        self._members_then: tuple[list[int], list[int]] = ([], [])
        self._regrouped = False
        self._keeps_more = any(group.kind in {"state", "linear"} for group in card.caches)
        self.computed: dict[str, int] = {}
        """Prompt tokens computed so far, of those that the last step computed some of."""
        self.peak_bytes = 0
        """Of the last step, measured, everything in the process counted."""
        self._eos = StopSequences([(token,) for token in loaded.tokenizer.eos_token_ids])

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
        self._most_bytes = self._most_bytes if self._jobs else 0
        stopped = job.text.feed(job.so_far).stopped
        remaining = job.max_tokens - len(job.so_far)
        if stopped or remaining <= 0:
            return ended(job, JobStep(job.key, []), "stop" if stopped else "length", Piece(stopped=stopped))
        if self._generator is None:
            self._generator = make_generator(
                self.loaded.model,
                alone=self.card.alone,
                chunk_tokens=self.chunk_tokens,
                prefill_rows=self.prefill_rows,
                max_batch=self._max_batch,
            )
        (job.uid,) = self._generator.insert(
            [job.prompt + job.so_far],
            max_tokens=[remaining],
            samplers=[make_sampler(job.request, job.seed, len(job.so_far), self.loaded.vocabulary)],
            logits_processors=[make_processors(job.request)],
            stop_sequences=[self._eos],
        )
        self._jobs[job.key] = job
        self._by_uid[job.uid] = job
        return None

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
        measured = self._teaches()
        if measured:
            mx.synchronize(self._generator.stream)  # the step before is let go first
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        near = before + _AHEAD * self._foreseen.growth_bytes > budget_bytes
        with one_at_a_time() if measured or near else contextlib.nullcontext():
            prompts, responses = self._generator.next()
        self.computed = {}
        for response in prompts:
            job = self._by_uid[response.uid]
            job.prefilled, job.computed = response.end_of_prompt, response.progress[0]
            self.computed[job.key] = job.computed
        for response in responses:
            response.prompt_cache = None  # an ended row's copy to be, which would hold the whole batch's
        if prompts and self._keeps_more:
            self._make_whole(keeps_more)  # a chunk's last values, cut out of all of them
        alone = not self._regroup()
        self._weigh(before, weights_bytes or self.loaded.weights_bytes, measured=measured and alone)
        steps = [self._take(response) for response in responses if response.uid in self._by_uid]
        if any(step.result for step in steps):
            self._regroup()
            mx.synchronize(self._generator.stream)  # errors can surface late: before success is told
        return steps

    def foresee(self, room_bytes: int) -> int:
        """What the next step can add to what is in use, in bytes; its prefill chunk is shortened to fit the room."""
        loads, real = self.loads[: 1 if self.card.alone else None], self.extents
        chunk, self._foreseen = within(
            room_bytes,
            self.chunk_tokens,
            lambda tokens: foresee(self.card, loads, tokens, self.prefill_rows, real),
        )
        if self._generator is not None:
            self._generator.shorten(chunk)
        return self._foreseen.growth_bytes

    @property
    def cache_bytes(self) -> int:
        """What MLX counts of the caches now."""
        return int(self._generator.prompt_cache_nbytes) if self._generator is not None else 0

    def learnt(self) -> bool:
        """Take into the card what the steps since the last time taught; whether that changed it."""
        card = self._margins.applied(self.card)
        changed, self.card = card != self.card, card
        return changed

    def _teaches(self) -> bool:
        """Whether the next step is measured: one in a few of those that make peaks."""
        foreseen = self._foreseen
        if not (foreseen.teaches and foreseen.work_bytes > foreseen.growth_bytes / 2 > self._most_bytes / 4):
            return False
        seen = self._steps_seen[foreseen.kind]
        self._steps_seen[foreseen.kind] += 1
        return seen < _MEASURED_FIRST or seen % _MEASURED_EVERY == 0

    def _weigh(self, before_bytes: int, weights_bytes: int, *, measured: bool) -> None:
        """Compare what the step took with what was foreseen."""
        self.peak_bytes, foreseen = mx.get_peak_memory(), self._foreseen
        share = (self.peak_bytes - weights_bytes) // max(1, len(self._jobs))
        for job in self._jobs.values():
            job.peak_bytes = max(job.peak_bytes, share)
        self._most_bytes = max(self._most_bytes, foreseen.growth_bytes)
        if measured:
            took = self.peak_bytes - before_bytes - foreseen.other_bytes
            self._margins.note(foreseen.kind, foreseen.work_bytes, took)

    @property
    def _members(self) -> tuple[list[int], list[int]]:
        """Whose caches the generator has: of prompts, and of rows that decode."""
        prompts, decoding = self._parts
        return [*prompts.uids], [*decoding.uids]

    @property
    def _parts(self) -> tuple[Part, Part]:
        """The generator's prompts, and its rows that decode."""
        parts: tuple[Part, Part] = self._generator.parts
        return parts

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
        self._most_bytes = 0
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
                self._forget(job)
            self._by_uid.pop(response.uid, None)
            return ended(job, step, "stop" if piece.stopped else response.finish_reason, piece)
        return step

    def _forget(self, job: RunningJob) -> None:
        if job.uid is not None:
            self._by_uid.pop(job.uid, None)
            self._generator.remove([job.uid])
