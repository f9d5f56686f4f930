"""Real caches against what is foreseen of them: jobs that join, are cancelled, stop and end, loop by loop."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from typing import Any, Final

import pytest

from scheduler.batch_account import Holder
from scheduler.footprint import batch_bytes
from scheduler.foresight import UNKNOWN, Life, Row, next_loop, replay
from scheduler.ledger import Ledger
from scheduler.rectangles import Batch
from scheduler.request import read_request
from scheduler.slots import CacheGroup, Extent
from tests.cards import PLAIN
from tests.loaded import Models, in_memory, loaded_once
from workers.batch import ModelBatch
from workers.caches import cache_groups, runs_alone
from workers.engine_job import RunningJob
from workers.models import LoadedModel
from workers.text import JobText

WINDOW: Final = 24
MANY: Final = 1 << 20
SMALL_BYTES: Final = 80 << 10
"""Tokens and logits of a few rows, and what MLX leaves beside an array rather than copy it, up to 16 KiB each;
the caches of a row are more, as a rule."""


STOPS: Final = tuple("aeiounst")
"""Letters, of which one comes soon."""

MAMBA: Final = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 32, "mamba_proj_bias": False}
KINDS: Final[dict[str, dict[str, Any]]] = {
    "llama": {},
    "gemma3_text": {"sliding_window": WINDOW, "sliding_window_pattern": 3, "num_hidden_layers": 3},
    "gpt_oss": {
        "sliding_window": WINDOW,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "mamba2": {"state_size": 128},
    "granitemoehybrid": {"num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"]},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64, "mamba_expand": 1},
}
"""Caches that grow, that slide beside one that grows, by turns with it, states, both, and both in lists."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The model of a kind, loaded once."""
    return loaded_once(tmp_path_factory, KINDS)


def shape(group: CacheGroup, at: int, offset: int, slots: int, *, rotated: bool) -> tuple[int, ...]:
    """What is told of a cache's slots that bears on its kind."""
    kinds = {
        "full": (at, slots),
        "chunked": (at, slots),
        "sliding": (at, offset, slots, rotated),
        "state": (),
    }
    return kinds[group.kind]


class Watched:
    """A real batch, each step of which is compared with what was foreseen of it.

    It has no memory to spare: so it copies what rows left as soon as they have, and nothing else is held.

    Args:
        loaded: its model.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together.
    """

    def __init__(self, loaded: LoadedModel, chunk_tokens: int, prefill_rows: int) -> None:
        self.groups = cache_groups(loaded)
        card = replace(PLAIN, model=loaded.name, caches=self.groups, alone=runs_alone(loaded))
        self.shape = (chunk_tokens, 1 if card.alone else prefill_rows)
        self.batch = ModelBatch(
            loaded, card, chunk_tokens=chunk_tokens, prefill_rows=prefill_rows, max_batch=8
        )
        self.jobs: dict[str, RunningJob] = {}
        self._count = self.steps = self.peak_bytes = self.most_promised = 0
        self.least_promised = MANY**2
        self._told = UNKNOWN
        gc.collect()
        self._before_bytes = in_memory()
        self._follow()

    @property
    def rows(self) -> list[Row]:
        """As the account knows them once it was told."""
        jobs = self.jobs.values()
        return [Row(len(job.prompt), job.max_tokens, job.load.length_tokens) for job in jobs]

    def _follow(self) -> None:
        """Foresee everything from here: nothing that was foreseen before holds any more."""
        self._life = Life(self.groups, self.rows, *self.shape, self.batch.extents)
        self._loops = self._life.loops

    def _promise(self) -> None:
        """What the account holds for the caches to come; until another job joins it only falls."""
        for real in (self._told, self.batch.extents):
            after = [step.cache_bytes for step in replay(self.groups, self.rows, *self.shape, real)]
            self.least_promised = min(self.least_promised, max(after, default=0))

    def add(self, prompt_tokens: int, max_tokens: int, *, stops: bool = False) -> str:
        """A job joins; its key."""
        self._count += 1
        key = f"job_{self._count}"
        loaded = self.batch.loaded
        fields = {"model": loaded.name, "prompt": "-", "temperature": 0, "stop": STOPS[:4] if stops else []}
        request = read_request(fields)
        prompt = [32 + (7 * self._count * at + at * at + self.steps) % 90 for at in range(prompt_tokens)]
        text = JobText(loaded.tokenizer, STOPS if stops else ())
        job = RunningJob(key, request, "standard", 0.0, prompt, [], max_tokens, 1, text)
        assert self.batch.add(job) is None
        self.jobs[key] = job
        self._follow()
        self.least_promised = MANY**2
        self._promise()
        self.most_promised, self.peak_bytes = self.least_promised, 0
        return key

    def remove(self, key: str) -> None:
        """A job is cancelled: what it had is free at once."""
        left = self.jobs.pop(key)
        assert self.batch.remove(key)
        if left.load.length_tokens:
            self._nothing_else_is_held()
        self._follow()
        if not left.prefilled:
            self.least_promised = MANY**2  # the prompts behind it are computed sooner
        self._promise()

    def step(self) -> None:
        """A loop of the generator."""
        foreseen = next_loop(self.groups, self.rows, *self.shape, self.batch.extents)
        assert foreseen.before_bytes == self.batch.cache_bytes
        next(self._loops)
        results = {done.key: done.result for done in self.batch.step(0) if done.result}
        self.steps += 1
        for key in results:
            del self.jobs[key]
        self._told = self.batch.told_extents() or self._told
        caches = self.batch.cache_bytes
        self.peak_bytes = max(self.peak_bytes, caches)
        if results:
            self._nothing_else_is_held()
        if any(result["finish_reason"] == "stop" for result in results.values()):
            self._follow()
        else:
            assert results or caches == foreseen.steps[-1].cache_bytes
            self._is_as_foreseen()
        assert caches <= self.least_promised
        self._promise()

    def _is_as_foreseen(self) -> None:
        """The caches, as they were foreseen when a job last joined or left unforeseen."""
        assert self.batch.cache_bytes == (self._life.held_bytes if self.jobs else 0)
        for real, batch in zip(self.batch.extents, (self._life.prompts, self._life.decoding), strict=True):
            assert self._real(real) == self._replayed(batch) or not batch.places

    def _real(self, real: Extent | None) -> tuple[int, list[tuple[int, ...]]] | None:
        if real is None:
            return None
        return real.longest_tokens, [
            shape(group, at, offset, slots, rotated=rotated)
            for group, (at, offset, slots, rotated) in zip(self.groups, real.caches, strict=True)
        ]

    def _replayed(self, batch: Batch) -> tuple[int, list[tuple[int, ...]]]:
        return max((place.length for place in batch.places), default=0), [
            shape(slots.group, slots.index, slots.offset, slots.slots, rotated=slots.rotated)
            for slots in batch.caches
        ]

    def _nothing_else_is_held(self) -> None:
        held = in_memory() - self._before_bytes
        assert abs(held - self.batch.cache_bytes) < SMALL_BYTES

    def run(self, steps: int = MANY) -> None:
        """So many loops, or to the last job's end."""
        while self.jobs and steps:
            self.step()
            steps -= 1


LENGTHS: Final = [
    1,
    2,
    3,
    WINDOW - 1,
    WINDOW,
    WINDOW + 1,
    WINDOW + 2,
    64,
    65,
    200,
    255,
    256,
    257,
    258,
    300,
    430,
]


def a_job(draw: random.Random) -> tuple[int, int]:
    """A prompt and an answer, in tokens."""
    prompt = draw.choice(LENGTHS) if draw.random() < 0.6 else draw.randint(1, 400)
    return prompt, draw.choice([1, 2, 10, 30, draw.randint(1, 90)])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_caches_go_as_foreseen_whatever_comes_and_goes(model: Models, kind: str, seed: int) -> None:
    """Their bytes and slots after every loop are those that were foreseen, of the next and of many to come;
    what left is not held; and they never come to more than was foreseen for them at any time since a job joined.
    """
    draw = random.Random(f"{kind} {seed}")
    watched = Watched(model(kind), draw.choice([16, 24, 40, 64]), draw.randint(1, 3))
    for _ in range(12):
        if len(watched.jobs) < 6:
            watched.add(*a_job(draw), stops=draw.random() < 0.3)
        if watched.jobs and draw.random() < 0.25:
            watched.remove(draw.choice([*watched.jobs]))
        watched.run(draw.choice([0, 1, 2, 8, 20]))
    watched.run()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["gemma3_text", "gpt_oss"])
def test_a_window_is_not_foreseen_as_more_than_it_is(model: Models, kind: str, seed: int) -> None:
    """Where every job ends as it was foreseen, the caches come to what was foreseen when the last joined."""
    draw = random.Random(f"calm {kind} {seed}")
    watched = Watched(model(kind), draw.choice([16, 40]), draw.randint(1, 3))
    for _ in range(5):
        watched.add(*a_job(draw))
        watched.run(draw.choice([0, 3, 15]))
    watched.run()
    assert watched.peak_bytes <= watched.most_promised <= 1.3 * watched.peak_bytes


def test_a_window_that_was_rotated_is_put_in_order_where_a_prompt_comes_in(model: Models) -> None:
    """A prompt's chunk of a single token rotates its window; another prompt beside it undoes that."""
    watched = Watched(model("gpt_oss"), 64, 2)
    watched.add(66, 30)
    watched.run(2)
    watched.add(10, 5)
    watched.run()


def test_the_account_holds_enough_where_a_prompt_comes_forward(model: Models) -> None:
    """A waiting job is cancelled: the one behind it now decodes beside a long one that would have ended."""
    watched = Watched(model("llama"), 16, 1)
    ledger = Ledger(1 << 40, *watched.shape)
    ledger.admit_model(watched.batch.card)
    watched.add(300, 30)
    watched.run(19 + 1 + 18)
    keys = [*watched.jobs, watched.add(300, 1), watched.add(100, 30)]
    for key, row in zip(keys, watched.rows, strict=True):
        ledger.reserve(Holder(key, 1), "llama", row)
        ledger.reach("llama", watched.batch.extents)
    watched.remove(keys[1])
    ledger.release(Holder(keys[1], 1))
    foreseen = batch_bytes(watched.batch.card, watched.rows, *watched.shape, watched.batch.extents)
    assert ledger.reserved_bytes >= foreseen
    watched.run()
