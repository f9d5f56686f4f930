"""Caches that are reused: what batches take then against what is foreseen, and what is kept against its bounds."""

from __future__ import annotations

import gc
import random
from typing import Any, Final

import pytest

from scheduler.card import ModelCard
from scheduler.foresight import Row, next_loop
from scheduler.request import read_request
from tests.loaded import Models, in_memory, loaded_once
from workers.batch import ModelBatch
from workers.budget import Budget
from workers.engine_job import RunningJob
from workers.models import LoadedModel
from workers.prefixes import LEAST_TOKENS, Prefixes, _bytes
from workers.probe import measure
from workers.text import JobText

WINDOW: Final = 200
PLENTY: Final = 1 << 40
SMALL_BYTES: Final = 32 << 10
"""Tokens and logits of a few rows."""

_CARDS: dict[tuple[str, int], ModelCard] = {}

WIDE: Final = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 32}
KINDS: Final[dict[str, dict[str, Any]]] = {
    "llama": WIDE,
    "gemma3_text": WIDE
    | {
        "sliding_window": WINDOW,
        "sliding_window_pattern": 3,
        "num_hidden_layers": 3,
        "query_pre_attn_scalar": 32,
    },
    "deepseek_v3": {},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The model of a kind, loaded once."""
    return loaded_once(tmp_path_factory, KINDS)


class Kitchen:
    """A real batch whose engine keeps what it can.

    Args:
        loaded: its model.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together.
        limit_bytes: what may be kept.
    """

    def __init__(
        self, loaded: LoadedModel, chunk_tokens: int = 64, prefill_rows: int = 2, limit_bytes: int = PLENTY
    ) -> None:
        self.budget = Budget(None, own_memory=False)
        self.budget.now_bytes = self.budget.steady_bytes = PLENTY
        self.prefixes = Prefixes(self.budget, limit_bytes)
        if (loaded.name, chunk_tokens) not in _CARDS:  # time for every probe
            _CARDS[loaded.name, chunk_tokens] = measure(
                loaded, "cpu", chunk_tokens=chunk_tokens, load_seconds=60
            )
        card = _CARDS[loaded.name, chunk_tokens]
        self.batch = ModelBatch(
            loaded,
            card,
            chunk_tokens=chunk_tokens,
            prefill_rows=prefill_rows,
            max_batch=8,
            prefixes=self.prefixes,
        )
        self.jobs: dict[str, RunningJob] = {}
        self.prompt_tokens = self.reused_tokens = 0
        """Computed, and not."""
        self._count = 0
        self._slides = any(group.kind == "sliding" for group in card.caches)

    def add(self, prompt: list[int], max_tokens: int) -> RunningJob:
        """A job joins."""
        self._count += 1
        request = read_request({"model": "m", "prompt": "-", "temperature": 0})
        text = JobText(self.batch.loaded.tokenizer, ())
        job = RunningJob(f"job_{self._count}", request, "standard", 0.0, prompt, [], max_tokens, 1, text)
        assert self.batch.add(job) is None
        self.jobs[job.key] = job
        return job

    def step(self) -> None:
        """A loop of the generator; it takes no more than was foreseen, and its caches are as foreseen."""
        batch = self.batch
        growth = batch.foresee(PLENTY)
        rows = [
            Row(
                load.length_tokens + load.prompt_left,
                load.answer_left,
                load.length_tokens,
                0,
                load.reused_tokens,
            )
            for load in batch.loads
        ]
        shape = (batch.chunk_tokens, batch.prefill_rows, batch.extents)
        foreseen = next_loop(batch.card.caches, rows, *shape)
        assert foreseen.before_bytes == batch.cache_bytes
        gc.collect()
        before, kept = in_memory(), {*self.prefixes._kept}
        lengths = {job.key: job.computed for job in self.jobs.values()}
        ended = [step.key for step in batch.step(before + growth) if step.result]
        fresh = [layers for key, layers in self.prefixes._kept.items() if key not in kept]
        copied = sum(map(_bytes, fresh)) + max(
            (_bytes([each]) for layers in fresh for each in layers), default=0
        )
        if (
            not self._slides or max(row.prompt_tokens for row in rows) < WINDOW
        ):  # a turning window is another matter
            assert batch.peak_bytes - before <= growth + copied
        for key, tokens in batch.computed.items():
            self.prompt_tokens += tokens - lengths[key] - batch.reused.get(key, 0)
        self.reused_tokens += sum(batch.reused.values())
        for key in ended:
            del self.jobs[key]
        assert ended or batch.cache_bytes == foreseen.steps[-1].cache_bytes

    def run(self, steps: int = PLENTY) -> None:
        """So many loops, or to the last job's end."""
        while self.jobs and steps:
            self.step()
            steps -= 1


def text_of(draw: random.Random, tokens: int) -> list[int]:
    return [draw.randrange(32, 126) for _ in range(tokens)]


@pytest.mark.parametrize("seed", range(2, 4))
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_reuse_take_no_more_than_was_foreseen(model: Models, kind: str, seed: int) -> None:
    """Whatever they share, and whoever is beside them: every loop's peak is within what was foreseen of it, and its
    caches are those that were foreseen to the byte, after a window turned too.
    """
    draw = random.Random(f"{kind} {seed}")
    kitchen = Kitchen(model(kind), draw.choice([24, 128]), draw.randint(1, 3))
    shared = [text_of(draw, draw.randint(LEAST_TOKENS + 10, 190)) for _ in range(3)]
    for _ in range(7):
        if len(kitchen.jobs) < 6:
            begin = draw.choice(shared)
            own = text_of(draw, draw.choice([0, 1, 2, 30, draw.randint(1, 150)]))
            kitchen.add(begin[: draw.randint(LEAST_TOKENS, len(begin))] + own, draw.choice([1, 3, 20, 60]))
        kitchen.run(draw.choice([0, 1, 3, 10, 30]))
    kitchen.run()
    assert kitchen.reused_tokens > LEAST_TOKENS
