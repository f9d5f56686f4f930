"""Models that run one job at a time: what they write, what they hold, and what was foreseen of it."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator, StopSequences, generate_step
from mlx_lm.models.cache import ConcatenateKVCache, RotatingKVCache

from benchmarks.batches import run_case
from benchmarks.small_models import ALONE_CONFIGS
from scheduler.card import ModelCard
from scheduler.errors import ModelUnsupported
from scheduler.footprint import batch_bytes
from scheduler.foresight import Row
from scheduler.request import read_request
from tests.cards import PLAIN
from tests.integration.test_real_caches import SMALL_BYTES, Watched, a_job
from tests.loaded import Models, in_memory, loaded_once
from workers.batch import ModelBatch
from workers.caches import cache_groups, runs_alone
from workers.engine_job import RunningJob
from workers.models import LoadedModel
from workers.probe import measure
from workers.sampling import make_processors, make_sampler
from workers.solo import Solo
from workers.text import JobText

pytestmark = pytest.mark.filterwarnings(
    "ignore:`rope_scaling` is deprecated"
)  # llama4 has no other word for it

PROMPT = [*b"The quick brown fox jumps over the lazy dog. " * 4]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The model of a kind, loaded once."""
    return loaded_once(tmp_path_factory)


@pytest.mark.parametrize("kind", ALONE_CONFIGS)
def test_each_runs_alone(model: Models, kind: str) -> None:
    """And its card says so; a plain llama shares its batch."""
    assert runs_alone(model(kind))
    assert not runs_alone(model("llama"))


def alone_and_batched(
    loaded: LoadedModel, prompts: list[list[int]]
) -> tuple[list[list[int]], list[list[int]]]:
    """Eight greedy tokens of each, by mlx-lm's generator of one sequence and by its batches."""
    alone = [
        [int(token) for token, _ in generate_step(mx.array(prompt), loaded.model, max_tokens=8)]
        for prompt in prompts
    ]
    generator = BatchGenerator(loaded.model, max_tokens=8)
    uids = generator.insert(prompts)
    batched: dict[int, list[int]] = {uid: [] for uid in uids}
    while responses := generator.next_generated():
        for response in responses:
            batched[response.uid].append(response.token)
    return alone, [batched[uid] for uid in uids]


def test_a_model_that_mlx_lm_batches_wrongly_still_is(model: Models) -> None:
    """``afm7`` beside a longer row writes other tokens than alone; where it no longer does, it need not run alone."""
    alone, batched = alone_and_batched(model("afm7"), [PROMPT[:3], PROMPT])
    assert alone[1] == batched[1] and alone[0] != batched[0]
    alone, batched = alone_and_batched(model("llama"), [PROMPT[:3], PROMPT])
    assert alone == batched


SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.3, "logit_bias": {"101": 3.0}},
    {"temperature": 1.1, "top_p": 0.9, "frequency_penalty": 0.4, "presence_penalty": 0.3},
]


@pytest.mark.parametrize("fields", SAMPLING, ids=["greedy", "biased", "seeded"])
@pytest.mark.parametrize("kind", ALONE_CONFIGS)
def test_tokens_and_logprobs_are_mlx_lms_own(model: Models, kind: str, fields: dict[str, Any]) -> None:
    """Those of ``generate_step`` with the same chunks, samplers and processors, bit for bit; of prompts queued at once."""
    loaded, chunk = model(kind), 40
    prompts = [PROMPT, PROMPT[:1], PROMPT[:41], PROMPT[:90]]
    request = read_request({"model": kind, "prompt": "-", **fields})
    solo = Solo(loaded.model, chunk)
    uids = solo.insert(
        copy.deepcopy(prompts),
        max_tokens=[12] * 4,
        samplers=[make_sampler(request, 7, 0, loaded.vocabulary) for _ in prompts],
        logits_processors=[make_processors(request) for _ in prompts],
    )
    told: dict[int, list[tuple[int, mx.array]]] = {uid: [] for uid in uids}
    reasons: list[tuple[int, str]] = []
    while any(each.uids for each in solo.parts) or not reasons or reasons[-1][0] != uids[-1]:
        for token in solo.next()[1]:
            told[token.uid].append((token.token, token.logprobs))
            reasons += [(token.uid, token.finish_reason)] * (token.finish_reason is not None)
    assert reasons == [(uid, "length") for uid in uids]
    for uid, prompt in zip(uids, prompts, strict=True):
        own = generate_step(
            mx.array(prompt),
            loaded.model,
            max_tokens=12,
            prefill_step_size=chunk,
            sampler=make_sampler(request, 7, 0, loaded.vocabulary),
            logits_processors=make_processors(request),
        )
        for (token, logprobs), (wanted, values) in zip(told[uid], own, strict=True):
            assert token == wanted
            assert mx.array_equal(logprobs, values)


def test_a_stop_sequence_ends_the_answer(model: Models) -> None:
    """With its last token, which is told; the next sequence begins."""
    solo = Solo(model("llama4").model, 64)
    first, second = solo.insert([PROMPT, PROMPT], max_tokens=[20, 2])
    tokens = [token.token for _ in range(23) for token in solo.next()[1] if token.uid == first]
    solo.remove([second])
    (again,) = solo.insert([PROMPT], max_tokens=[20], stop_sequences=[StopSequences([(tokens[5],)])])
    told = [token for _ in range(60) for token in solo.next()[1] if token.uid == again]
    assert [token.token for token in told] == tokens[: tokens.index(tokens[5]) + 1]
    assert told[-1].finish_reason == "stop"
    assert solo.next() == ([], [])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["llama4", "afm7"])
def test_caches_go_as_foreseen(model: Models, kind: str, seed: int) -> None:
    """To the byte and the slot, after every loop of jobs that come one after another, are cancelled and stop."""
    draw = random.Random(f"{kind} {seed}")
    watched = Watched(model(kind), draw.choice([16, 24, 40, 300]), 3)
    for _ in range(6):
        key = watched.add(*a_job(draw), stops=draw.random() < 0.3)
        watched.run(draw.choice([1, 3, 20, 400]))
        if key in watched.jobs and draw.random() < 0.5:
            watched.remove(key)
        watched.run()


def a_running_job(loaded: LoadedModel, prompt: list[int], max_tokens: int, **fields: Any) -> RunningJob:
    request = read_request({"model": loaded.name, "prompt": "-", "temperature": 0, **fields})
    text = JobText(loaded.tokenizer, ())
    return RunningJob("job", request, "standard", 0.0, prompt, [], max_tokens, 1, text)


@pytest.fixture(params=["deepseek_v41", "concatenating"])
def unknown(
    request: pytest.FixtureRequest, model: Models, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoadedModel]:
    """A model with caches of a kind of which nothing is known."""
    if request.param == "concatenating":
        loaded = model("llama")
        layers = len(loaded.model.layers)
        monkeypatch.setattr(
            type(loaded.model), "make_cache", lambda _: [ConcatenateKVCache() for _ in range(layers)]
        )
        yield loaded
    else:
        yield model(request.param)


@pytest.mark.parametrize("prompt", [1, 70, 900])
def test_caches_of_an_unknown_kind_take_no_more_than_foreseen(unknown: LoadedModel, prompt: int) -> None:
    """By themselves, and with what else of a chunk would stay with them; from a few lengths that were looked at."""
    gc.collect()
    before = in_memory()
    groups = cache_groups(unknown)
    (group,) = groups
    card = replace(PLAIN, model=unknown.name, caches=groups, alone=True)
    assert group.kind == "linear"
    batch = ModelBatch(unknown, card, chunk_tokens=64, prefill_rows=4, max_batch=8)
    batch.add(a_running_job(unknown, [32 + at % 90 for at in range(prompt)], 150))
    while len(batch):
        batch.foresee(1 << 40)
        batch.step(1 << 40)
        if len(batch):
            (load,) = batch.loads
            bound = group.bytes_per_token * load.length_tokens + group.state_bytes
            assert batch.cache_bytes <= bound
            assert in_memory() - before <= bound + SMALL_BYTES
    assert in_memory() - before < SMALL_BYTES


CASES = [[(10, 40, 0)], [(700, 40, 0)], [(230, 40, 0)], [(31, 40, 0)]]


@pytest.mark.parametrize("kind", ALONE_CONFIGS)
def test_no_job_needs_more_than_its_footprint(model: Models, kind: str) -> None:
    """The measured peak of real jobs is within what their card foresees, which is not several times as much."""
    loaded = model(kind)
    card = measured(loaded)
    assert card.alone and card.caches == cache_groups(loaded)
    batch = batch_of(loaded, card)
    found = [run_case(batch, card, loaded, jobs) for jobs in CASES]
    assert [case for case in found if not 0 <= case.over <= 3] == []
    assert [case for case in found if case.kv_measured_bytes > case.kv_foreseen_bytes] == []


def test_a_job_shed_and_resumed_writes_what_it_would_have(model: Models) -> None:
    """From its prompt and any number of its tokens, greedy with a penalty or seeded; what it had is free at once."""
    loaded = model("llama4")
    card = measured(loaded)
    for fields in ({"repetition_penalty": 1.2}, {"temperature": 1.0, "top_k": 40}):
        calm = run_out(batch_of(loaded, card), a_running_job(loaded, PROMPT, 40, **fields))
        for cut in (1, 17, 39):
            batch, job = batch_of(loaded, card), a_running_job(loaded, PROMPT, 40, **fields)
            before = in_memory()
            batch.add(job)
            while len(job.made) < cut:
                batch.step(1 << 40)
            assert batch.remove("job") and in_memory() - before < SMALL_BYTES
            again = a_running_job(loaded, PROMPT, 40, **fields)
            again.so_far = job.made
            assert job.made + run_out(batch, again) == calm


_CARDS: dict[str, ModelCard] = {}


def measured(loaded: LoadedModel) -> ModelCard:
    """A model's card, measured once."""
    if loaded.name not in _CARDS:
        _CARDS[loaded.name] = measure(loaded, "cpu", chunk_tokens=64)
    return _CARDS[loaded.name]


def batch_of(loaded: LoadedModel, card: ModelCard, chunk: int = 64) -> ModelBatch:
    return ModelBatch(loaded, card, chunk_tokens=chunk, prefill_rows=4, max_batch=8)


def run_out(batch: ModelBatch, job: RunningJob) -> list[int]:
    """A job's tokens, to its end."""
    batch.add(job)
    while len(batch):
        batch.step(1 << 40)
    return job.made


def test_a_prompt_removed_half_way_frees_what_it_has(model: Models) -> None:
    """At once, and the next job writes what it writes undisturbed."""
    loaded = model("llama4")
    card = measured(loaded)
    calm = run_out(batch_of(loaded, card), a_running_job(loaded, PROMPT, 20))
    batch = batch_of(loaded, card)
    before = in_memory()
    batch.add(a_running_job(loaded, PROMPT * 10, 20))
    for _ in range(9):
        batch.step(1 << 40)
    assert batch.computed and in_memory() - before > 9 * 64 * 256
    assert batch.remove("job")
    assert in_memory() - before < SMALL_BYTES
    assert run_out(batch, a_running_job(loaded, PROMPT, 20)) == calm


def test_the_guard_shortens_the_chunk(model: Models) -> None:
    """Where a whole one does not fit, to the longest that does."""
    loaded = model("llama4")
    batch = batch_of(loaded, measure(loaded, "cpu", chunk_tokens=256), 256)
    batch.add(a_running_job(loaded, PROMPT * 5, 5))
    usual = batch.foresee(1 << 40)
    batch.step(1 << 40)
    assert batch.computed == {"job": 256}
    assert batch.foresee(usual // 2) <= usual // 2
    batch.step(1 << 40)
    assert 256 < batch.computed["job"] < 512


def test_caches_whose_size_cannot_be_told_are_refused(model: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """As are those that are not used; by the model's and the cache's name."""

    class Silent(ConcatenateKVCache):
        pass

    class Unused(RotatingKVCache):
        pass

    loaded = model("llama")
    layers = len(loaded.model.layers)
    monkeypatch.setattr(Silent, "nbytes", None)
    monkeypatch.setattr(type(loaded.model), "make_cache", lambda _: [Silent() for _ in range(layers)])
    with pytest.raises(ModelUnsupported, match=r"llama has a cache whose size cannot be told: Silent"):
        cache_groups(loaded)
    made = [ConcatenateKVCache() for _ in range(layers)] + [Unused(8)]
    monkeypatch.setattr(type(loaded.model), "make_cache", lambda _: copy.deepcopy(made))
    with pytest.raises(ModelUnsupported, match=r"llama has a cache that it does not use: Unused"):
        cache_groups(loaded)


def test_a_card_foresees_one_row_at_a_time(model: Models) -> None:
    """Those that wait in the generator take nothing, and the guard weighs what runs alone."""
    loaded = model("afm7")
    card = measured(loaded)
    batch = batch_of(loaded, card)
    for key in ("first", "second"):
        job = a_running_job(loaded, PROMPT, 30)
        job.key = key
        batch.add(job)
    growth = batch.foresee(1 << 40)
    assert growth <= batch_bytes(card, [Row(len(PROMPT), 30)], 64, 1)
    ended: list[str] = []
    while len(batch):
        batch.foresee(1 << 40)
        told = batch.step(1 << 40)
        assert len(told) <= 1
        ended += [step.key for step in told if step.result]
    assert ended == ["first", "second"]
