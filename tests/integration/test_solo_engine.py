"""Models that run one job at a time, in an engine of their own process: beside others, shed, cancelled, out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_lm
import pytest

from benchmarks.random_models import write_random_model
from scheduler.card import ModelCard
from scheduler.footprint import batch_bytes
from scheduler.foresight import Row
from tests.engines import MODEL, Talk, engine
from workers.classifier import classify_text
from workers.engine import Engine
from workers.solo import Solo
from workers.wire import Message

SOLO = "solo"
PROMPT = "The quick brown fox jumps over the lazy dog. " * 4

pytestmark = pytest.mark.filterwarnings(
    "ignore:`rope_scaling` is deprecated"
)  # llama4 has no other word for it


@pytest.fixture(scope="module")
def solo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small llama4, which never stops by itself."""
    return write_random_model(tmp_path_factory.mktemp("llama4"), "llama4", never_stops=True)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, solo_model: Path) -> Iterator[Talk]:
    """An engine with both kinds of model."""
    with engine(tmp_path_factory.mktemp("engine")) as made:
        made.load(tiny_model)
        assert made.load(solo_model, SOLO).alone
        yield made


def test_the_text_is_mlx_lms_own(talk: Talk, solo_model: Path) -> None:
    """Greedy, as ``mlx_lm.generate`` writes it with the same chunks."""
    model, tokenizer = mlx_lm.load(str(solo_model))[:2]
    wanted = mlx_lm.generate(model, tokenizer, PROMPT, max_tokens=60, prefill_step_size=64)
    key = talk.run(model=SOLO, prompt=PROMPT, max_tokens=60)
    assert talk.result(key)["text"] == talk.sent(key) == wanted.removeprefix(" ")


def test_another_models_jobs_go_on_beside_it(talk: Talk) -> None:
    """Both write what they write alone, and by turns: neither waits for the other's end."""
    asked: list[dict[str, Any]] = [
        {"model": SOLO, "prompt": PROMPT, "temperature": 1.0, "max_tokens": 80, "logprobs": 2},
        {"model": MODEL, "prompt": PROMPT, "max_tokens": 80},
        {"model": MODEL, "prompt": "a", "max_tokens": 80, "temperature": 0.8},
    ]
    alone = [talk.result(talk.run(**fields)) for fields in asked]
    keys = [talk.run(**fields) for fields in asked]
    assert [talk.result(key) for key in keys] == alone
    first = [next(step["at"] for step in talk.steps(key)) for key in keys]
    last = [talk.steps(key)[-1]["at"] for key in keys]
    assert max(first) < min(last)


def test_a_stop_word_and_a_resumed_job(talk: Talk) -> None:
    """The word is found across attempts; from any number of its tokens a job goes on to the same end."""
    fields: dict[str, Any] = {"model": SOLO, "prompt": PROMPT, "temperature": 0.9, "presence_penalty": 0.5}
    calm_key = talk.run(**fields, max_tokens=40)
    text, tokens = talk.result(calm_key)["text"], talk.tokens(calm_key)
    stop = text[20:24]
    calm = talk.result(talk.run(**fields, max_tokens=40, stop=[stop]))
    assert calm["finish_reason"] == "stop" and calm["text"] == text[: text.index(stop)]
    for cut in (1, 21, 22, text.index(stop) + 4):
        assert talk.result(talk.run(**fields, max_tokens=40, stop=[stop], so_far=tokens[:cut])) == calm


def begun(talk: Talk, key: str, what: str) -> bool:
    """Whether a job has come so far."""
    if what == "a token":
        return bool(talk.tokens(key))
    return any(key in step.get("computed", ()) for step in talk.of("step")[-3:])


def test_a_job_cancelled_in_its_prompt_or_its_answer_frees_its_memory(talk: Talk) -> None:
    """The next one runs, and only the weights are left after it."""
    talk.result(talk.run(model=SOLO, max_tokens=2))
    idle = talk.of("step")[-1]["memory"]["active_bytes"]
    for prompt, there in (("x" * 3000, "a chunk"), ("x" * 900, "a token")):
        key = talk.run(model=SOLO, prompt=prompt, max_tokens=1000)
        talk.until(lambda: begun(talk, key, there), f"{there} of {key}")  # noqa: B023 - called at once
        talk.supervisor.send({"kind": "remove", "key": key})
        assert talk.result(talk.run(model=SOLO, max_tokens=2))
        assert talk.of("step")[-1]["memory"]["active_bytes"] < idle + (1 << 18)
        assert not any("result" in step for step in talk.steps(key))


def test_the_guard_sheds_it_for_another_models_job(
    tmp_path: Path, wide_model: Path, solo_model: Path
) -> None:
    """The youngest of the lowest class goes; from its tokens it goes on to the text it would have had."""
    with engine(tmp_path) as roomy:
        wide, card = roomy.load(wide_model), roomy.load(solo_model, SOLO)
        calm = roomy.result(roomy.run(model=SOLO, prompt=PROMPT, max_tokens=600))
    budget = wide.weights_bytes + card.weights_bytes + batch_bytes(wide, [Row(180, 450)], 64, 1)
    with engine(tmp_path, memory_budget=budget, cache_limit=0) as talk:
        talk.load(wide_model)
        talk.load(solo_model, SOLO)
        kept = talk.run(prompt=PROMPT, max_tokens=450, claimed_at=1.0)
        shed = talk.run(model=SOLO, prompt=PROMPT, max_tokens=600, priority="batch", claimed_at=2.0)
        assert talk.result(kept)["finish_reason"] == "length"
        assert [message["key"] for message in talk.of("shed")] == [shed]
        again = talk.run(model=SOLO, prompt=PROMPT, max_tokens=600, so_far=talk.tokens(shed))
        assert talk.result(again) == calm


@pytest.mark.parametrize(
    "text", ["cudaMallocAsync(&data, size, stream) failed: out of memory", "[METAL] Insufficient Memory"]
)
def test_what_mlx_raises_is_told_as_of_any_model(
    solo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """With the job's key and the words by which memory that ran out is known; a fresh generator goes on."""
    said: list[Message] = []
    mine = Engine(said.append)
    shape = {"chunk_tokens": 64, "prefill_rows": 4, "max_batch": 8, "gap_seconds": 1}
    configure = {
        "kind": "configure",
        "memory_budget": 1 << 30,
        "cache_limit": 0,
        "cards_folder": str(tmp_path),
    }
    mine.handle(configure | shape)
    mine.handle({"kind": "share", "share_bytes": 1 << 30})
    mine.handle({"kind": "load", "model": SOLO, "source": str(solo_model)})
    assert ModelCard.from_json(said[-1]["card"]).alone
    run = {"kind": "run", "model": SOLO, "request": {"model": SOLO, "prompt": PROMPT, "temperature": 0}}
    run |= {"priority": "standard", "claimed_at": 0.0, "so_far": [], "max_tokens": 20, "seed": 1, "scope": ""}

    def to_the_end(key: str) -> Message:
        mine.handle(run | {"key": key})
        mine.handle({"kind": "grant", "key": key})
        said.clear()
        while mine.busy:
            mine.step()
        return said[-1] if said[-1]["kind"] != "learnt" else said[-2]

    calm = to_the_end("calm")["steps"][-1]["result"]
    step = Solo._step
    with monkeypatch.context() as patched:

        def runs_out(self: Solo, one: Any, token: Any) -> None:
            step(self, one, token)
            if one.made == 5:
                raise RuntimeError(text)

        patched.setattr(Solo, "_step", runs_out)
        mine.handle(run | {"key": "lost"})
        mine.handle({"kind": "grant", "key": "lost"})
        said.clear()
        while mine.busy:
            mine.step()
    (raised,) = [message for message in said if message["kind"] == "raised"]
    assert raised["keys"] == ["lost"]
    assert classify_text(raised["text"]).fault.value == "out_of_memory"
    assert to_the_end("again")["steps"][-1]["result"] == calm
