"""What is counted of a batch's steps: tokens of prompts, for how long what was foreseen holds, how far rows are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from scheduler.foresight import LATE_TOKENS
from scheduler.request import read_request
from tests.engines import MODEL
from workers.batch import ModelBatch
from workers.engine import Engine
from workers.engine_job import RunningJob
from workers.models import LoadedModel, load_model
from workers.probe import measure
from workers.stride import Stride
from workers.text import JobText
from workers.wire import Message

PLENTY = 1 << 40
CHUNK = 64


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedModel:
    """The tiny model."""
    return load_model(MODEL, str(tiny_model))


@pytest.fixture
def batch(loaded: LoadedModel) -> ModelBatch:
    """A batch that computes four prompts together."""
    card = measure(loaded, "cpu", chunk_tokens=CHUNK)
    return ModelBatch(loaded, card, chunk_tokens=CHUNK, prefill_rows=4, max_batch=8)


def add(batch: ModelBatch, key: str, prompt_tokens: int, max_tokens: int) -> None:
    """A job joins."""
    request = read_request({"model": MODEL, "prompt": "-", "temperature": 0})
    text = JobText(batch.loaded.tokenizer, ())
    batch.add(RunningJob(key, request, "standard", 0.0, [65] * prompt_tokens, [], max_tokens, 1, text))


def test_prompts_that_begin_to_decode_are_no_rows_of_a_chunk(
    batch: ModelBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted as such they would make it seem several times as fast, and the next one several times too long."""
    noted: list[int] = []
    monkeypatch.setattr(batch._stride, "note", lambda _, tokens, **__: noted.append(tokens))
    for at in range(3):
        add(batch, f"short_{at}", 40, 8)
    add(batch, "long", 300, 8)
    for _ in range(3):
        batch.foresee(PLENTY)
        batch.step(PLENTY)
    # Four rows as long as the longest; three that begin to decode beside one row; that row alone.
    assert noted == [4 * CHUNK, CHUNK, CHUNK]


def test_what_was_foreseen_of_a_batch_is_not_held_against_a_smaller_one(batch: ModelBatch) -> None:
    """Who sheds a job asks again what the others take: else more would go than have to."""
    for at in range(6):
        add(batch, str(at), 40, 200)
    for _ in range(6):
        before = batch.foresee(PLENTY)
        batch.step(PLENTY)
    assert batch._lasts > 0, "the premise"
    for at in range(1, 6):
        batch.remove(str(at))
    assert batch.foresee(PLENTY) < 0.6 * before


def an_engine(model: Path, folder: Path) -> tuple[Engine, list[Message]]:
    """One in this process, its model loaded; and what it says."""
    said: list[Message] = []
    engine = Engine(said.append)
    shape = {"chunk_tokens": CHUNK, "prefill_rows": 4, "max_batch": 8, "gap_seconds": 1}
    limits = {"memory_budget": 1 << 30, "cache_limit": 0, "cards_folder": str(folder)}
    engine.handle({"kind": "configure"} | limits | shape)
    engine.handle({"kind": "share", "share_bytes": 1 << 30})
    engine.handle({"kind": "load", "model": MODEL, "source": str(model)})
    return engine, said


def test_who_comes_is_counted_beside_rows_as_far_as_they_are(tiny_model: Path, tmp_path: Path) -> None:
    """Steps are told some tens of times a second: before a prompt's count, from which the worker decides whether it
    fits beside them, what they have made since is told.
    """
    engine, said = an_engine(tiny_model, tmp_path)
    run = {"kind": "run", "model": MODEL, "request": {"model": MODEL, "prompt": "Hello", "temperature": 0}}
    run |= {
        "priority": "standard",
        "claimed_at": 0.0,
        "so_far": [],
        "max_tokens": 400,
        "seed": 1,
        "scope": "",
    }
    engine.handle(run | {"key": "first"})
    engine.handle({"kind": "grant", "key": "first"})
    job = engine._batches[MODEL]._jobs["first"]
    while len(job.made) < 40:
        engine.step()
    engine._telling._due_at, engine._telling._loops = math.inf, 0  # as between two times
    for _ in range(LATE_TOKENS):
        engine.step()
    assert job.untold is not None, "the premise"
    said.clear()
    engine.handle(run | {"key": "second"})
    assert [message["kind"] for message in said] == ["counting", "step", "sized"]
    assert said[1]["steps"][0]["tokens"][-1] == job.made[-1] and job.untold is None


@pytest.mark.parametrize(("seconds", "reused"), [(1.0, 20), (0.001, 0)])
def test_few_tokens_are_taken_up_where_they_take_long(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, reused: int
) -> None:
    """A chat template's own system prompt has some twenty: a model that computes them in a moment computes them."""
    monkeypatch.setattr(Stride, "seconds", lambda _, tokens: seconds * tokens / 16)
    engine, said = an_engine(tiny_model, tmp_path)
    for name in ("first", "second"):
        request = {"model": MODEL, "prompt": "a system prompt. now" + name, "temperature": 0}
        run = {"kind": "run", "key": name, "model": MODEL, "request": request, "priority": "standard"}
        engine.handle(run | {"claimed_at": 0.0, "so_far": [], "max_tokens": 4, "seed": 1, "scope": ""})
        engine.handle({"kind": "grant", "key": name})
        while engine.busy:
            engine.step()
    results = [step["result"] for message in said for step in message.get("steps", ()) if "result" in step]
    cached = [result["usage"]["prompt_tokens_details"]["cached_tokens"] for result in results]
    assert cached == [0, reused]
