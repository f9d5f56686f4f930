"""One batch through the engine's own code: what its jobs were foreseen to take, and what they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx

from scheduler.card import ModelCard
from scheduler.footprint import batch_bytes, joined_bytes, life
from scheduler.foresight import Row, next_loop
from scheduler.request import read_request
from workers.batch import ModelBatch
from workers.engine_job import RunningJob
from workers.models import LoadedModel
from workers.text import JobText

SHAPES: Final[list[list[tuple[int, int]]]] = [
    *[[(prompt, 16)] for prompt in (64, 256, 600, 1024, 2048, 4096)],
    *[[(prompt, 128)] for prompt in (64, 900, 2048)],
    *[[(prompt, 512)] for prompt in (64, 500)],
    *[[(prompt, 16)] * 4 for prompt in (64, 300, 1024, 2048)],
    *[[(64, 512)] * 4, [(700, 128)] * 4],
    *[[(prompt, 16)] * 8 for prompt in (64, 512, 1024)],
    *[[(64, 300)] * 8, [(500, 64)] * 8],
    [(64, 300), (128, 200), (500, 100), (3000, 50)],
    [(2000, 100), (64, 16), (700, 300), (1500, 30)],
    [(64, 60)] * 7 + [(2049, 30)],
    [(100 * at**2 % 4000 + 64, 20 + 50 * at) for at in range(1, 9)],
]
"""Jobs of each batch: prompt and answer, in tokens."""

JOINED: Final[list[list[tuple[int, int, int]]]] = [
    [(64, 300, 0), (1024, 64, 40), (500, 128, 60), (64, 200, 120)],
    [(2048, 64, 0), (300, 200, 3), (700, 100, 30), (64, 100, 31), (200, 16, 90)],
]
"""The same of jobs that come one after another, and by which step; they sample."""


@dataclass(frozen=True, slots=True)
class Case:
    """One batch; bytes are counted beside the weights."""

    model: str
    jobs: int
    tokens: int
    probed_bytes: int
    foreseen_bytes: int
    measured_bytes: int
    kv_foreseen_bytes: int
    kv_measured_bytes: int

    @property
    def over(self) -> float:
        """How much too large it was foreseen, as a share of what it took."""
        return self.foreseen_bytes / self.measured_bytes - 1

    @property
    def probed_over(self) -> float:
        """The same, nothing learnt."""
        return self.probed_bytes / self.measured_bytes - 1


def run_case(
    batch: ModelBatch, probed: ModelCard, loaded: LoadedModel, jobs: Sequence[tuple[int, int, int]]
) -> Case:
    """Foresee a batch whenever jobs join it, run it, and let it teach.

    Its caches are foreseen for its whole life at its beginning; where jobs join later, loop by loop.

    Args:
        batch: an empty one.
        probed: the card before anything was learnt.
        loaded: the model.
        jobs: prompt and answer in tokens, and by which step they come.
    """
    later = any(joins for *_, joins in jobs)
    fields: dict[str, Any] = {"model": loaded.name, "prompt": "-", "temperature": 0}
    if later:
        fields |= {"temperature": 0.8, "top_p": 0.9, "top_k": 40}
    request = read_request(fields)
    coming = [
        (
            joins,
            RunningJob(str(at), request, "standard", 0.0, _prompt(at, prompt), [], answer, 1, _text(loaded)),
        )
        for at, (prompt, answer, joins) in enumerate(jobs)
    ]
    mx.synchronize()
    mx.clear_cache()
    before, step = mx.get_active_memory(), 0
    usual = mx.set_memory_limit(before)
    foreseen = kv_foreseen = peak = kv_peak = probed_bytes = 0
    running: list[RunningJob] = []
    while len(batch) or coming:
        joining = [job for joins, job in coming if joins <= step]
        if joining:
            rows = [_row(job) for job in (*running, *joining) if job.key in {*batch.keys} or job in joining]
            shape = (batch.chunk_tokens, batch.prefill_rows, batch.extents)
            probed_bytes = max(probed_bytes, batch_bytes(probed, rows, *shape))
            if running:  # as it is admitted beside others, who may be further than is known
                foreseen = max(foreseen, joined_bytes(batch.card, rows[-1], rows[:-1], *shape))
            foreseen = max(foreseen, batch_bytes(batch.card, rows, *shape))
            if not later:
                kv_foreseen = max(each.cache_bytes for each, _ in life(batch.card, rows, *shape))
            mx.set_memory_limit(before + foreseen)  # as on a worker whose budget the batch fills
            for job in joining:
                batch.add(job)
            running += joining
            coming = coming[len(joining) :]
        if later:
            rows = [_row(job) for job in running if job.key in {*batch.keys}]
            loop = next_loop(batch.card.caches, rows, batch.chunk_tokens, batch.prefill_rows, batch.extents)
            kv_foreseen = max(kv_foreseen, loop.steps[-1].cache_bytes)
        batch.foresee(foreseen + before)
        batch.step(before + foreseen)
        step += 1
        peak, kv_peak = max(peak, batch.peak_bytes), max(kv_peak, batch.cache_bytes)
    mx.set_memory_limit(usual)
    batch.learnt()
    batch.abandon()
    tokens = sum(prompt + answer for prompt, answer, _ in jobs)
    return Case(loaded.name, len(jobs), tokens, probed_bytes, foreseen, peak - before, kv_foreseen, kv_peak)


def _prompt(at: int, tokens: int) -> list[int]:
    return [32 + (7 * at + place) % 90 for place in range(tokens)]


def _text(loaded: LoadedModel) -> JobText:
    return JobText(loaded.tokenizer, ())


def _row(job: RunningJob) -> Row:
    """As far as it is."""
    return Row(len(job.prompt), job.max_tokens, job.load.length_tokens)
