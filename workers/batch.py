"""One model's running jobs: mlx-lm's BatchGenerator, and each job's text beside it.

A generator that raised is never used again: :meth:`ModelBatch.abandon` gives its jobs back, and the
next one starts a fresh generator.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.models.cache import BatchKVCache

from scheduler.footprint import ModelCard
from scheduler.request import JobRequest
from workers.guard import Load
from workers.models import LoadedModel
from workers.sampling import make_processors, make_sampler
from workers.text import JobText, Piece

# mlx-lm wires memory in BatchGenerator's constructor. Wiring is implicated in kernel panics
# (ml-explore/mlx#3186), so it is an operator's explicit choice and never ours.
setattr(importlib.import_module("mlx_lm.generate"), "maybe_set_recommended_wired_limit", lambda: None)  # noqa: B010


@dataclass(slots=True)
class RunningJob:
    """A job in the engine.

    ``so_far`` are the tokens of earlier attempts: they follow the prompt, and are not sent again.
    """

    key: str
    request: JobRequest
    priority: str
    claimed_at: float
    prompt: list[int]
    so_far: list[int]
    max_tokens: int
    seed: int
    text: JobText
    made: list[int] = field(default_factory=list)
    uid: int | None = None
    prefilled: bool = False
    computed: int = 0
    """Prompt tokens computed so far."""
    peak_bytes: int = 0

    @property
    def load(self) -> Load:
        """As the guard weighs it."""
        known = len(self.prompt) + len(self.so_far)
        length = known + len(self.made) if self.prefilled else self.computed
        return Load(
            self.key, self.priority, self.claimed_at, length, 0 if self.prefilled else max(1, known - length)
        )

    @property
    def completion_tokens(self) -> int:
        """Tokens of every attempt."""
        return len(self.so_far) + len(self.made)


@dataclass(slots=True)
class JobStep:
    """What a step brought one job."""

    key: str
    tokens: list[int]
    text: str = ""
    reasoning: str = ""
    logprobs: list[dict[str, Any]] | None = None
    result: dict[str, Any] | None = None
    """The job's result, where this step ended it."""
    peak_bytes: int = 0


class ModelBatch:
    """A model and the jobs that share its batch.

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
        self._chunk_tokens, self._prefill_rows, self._max_batch = chunk_tokens, prefill_rows, max_batch
        self._jobs: dict[str, RunningJob] = {}
        self._by_uid: dict[int, RunningJob] = {}
        self._generator: Any = None
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
        stopped = job.text.feed(job.so_far).stopped
        remaining = job.max_tokens - len(job.so_far)
        if stopped or remaining <= 0:
            return self._end(
                job, JobStep(job.key, []), "stop" if stopped else "length", Piece(stopped=stopped)
            )
        if self._generator is None:
            self._generator = BatchGenerator(
                self.loaded.model,
                completion_batch_size=self._max_batch,
                prefill_batch_size=self._prefill_rows,
                prefill_step_size=self._chunk_tokens,
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
        """Stop a job; its memory is free after the next step. False where it does not run here."""
        job = self._jobs.pop(key, None)
        if job is None:
            return False
        self._forget(job)
        return True

    def step(self) -> list[JobStep]:
        """One decode step and one prefill chunk.

        Raises:
            Exception: whatever MLX raises; :meth:`abandon` must follow.
        """
        prompts, responses = self._generator.next()
        for response in prompts:
            job = self._by_uid[response.uid]
            job.prefilled, job.computed = response.end_of_prompt, response.progress[0]
        peak = max(0, mx.get_peak_memory() - self.loaded.weights_bytes) // max(1, len(self._jobs))
        for job in self._jobs.values():
            job.peak_bytes = max(job.peak_bytes, peak)
        steps = [self._take(response) for response in responses if response.uid in self._by_uid]
        if any(step.result for step in steps):
            mx.synchronize(self._generator.stream)  # errors can surface late: before success is told
        return steps

    @property
    def free_slots(self) -> int:
        """Tokens that the decoding rows' caches have room for before they grow."""
        if self._generator is None:
            return 0
        caches = self._generator._generation_batch.prompt_cache  # noqa: SLF001 - mlx-lm shows it nowhere else
        room = [c.keys.shape[2] - c._idx for c in caches if type(c) is BatchKVCache and c.keys is not None]  # noqa: SLF001
        return min(room, default=1)

    def abandon(self) -> None:
        """Give up the generator and every job in it."""
        self._jobs.clear()
        self._by_uid.clear()
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
                step.logprobs = [self._logprob(response, job.request.logprobs)]
        step.text, step.reasoning = piece.text, piece.reasoning
        if piece.stopped or response.finish_reason is not None:
            self._jobs.pop(job.key)
            if response.finish_reason is None:
                self._forget(job)
            self._by_uid.pop(response.uid, None)
            return self._end(job, step, "stop" if piece.stopped else response.finish_reason, piece)
        return step

    def _end(self, job: RunningJob, step: JobStep, reason: str, piece: Piece) -> JobStep:
        if not piece.stopped:
            rest = job.text.finish()
            step.text += rest.text
            step.reasoning += rest.reasoning
            reason = "stop" if rest.stopped else reason
        calls, refused = job.text.tool_calls(job.request.tools)
        step.text += refused
        result: dict[str, Any] = {"text": job.text.text, "finish_reason": "tool_calls" if calls else reason}
        if job.text.reasoning:
            result["reasoning"] = job.text.reasoning
        if calls:
            result["tool_calls"] = calls
        prompt, completion = len(job.prompt), job.completion_tokens
        result["usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        step.result, step.peak_bytes = result, job.peak_bytes
        return step

    def _forget(self, job: RunningJob) -> None:
        if job.uid is not None:
            self._by_uid.pop(job.uid, None)
            self._generator.remove([job.uid])

    def _logprob(self, response: Any, top: int) -> dict[str, Any]:
        values: mx.array = response.logprobs
        chosen = [response.token]
        if top:
            count = min(top, values.size)
            best: Any = mx.argpartition(-values, kth=count - 1)[:count].tolist()
            chosen += sorted(best, key=lambda token: -_number(values, token))
        entries = [self._entry(token, _number(values, token)) for token in chosen]
        return entries[0] | {"top_logprobs": entries[1:]}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.loaded.tokenizer.decode([token])
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


def _number(values: mx.array, at: int) -> float:
    number: Any = values[at].item()
    return float(number)
