"""The engine with what it keeps: the same answers, fewer tokens computed, and its memory given up first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.random_models import write_random_llama, write_random_model
from scheduler.footprint import batch_bytes
from scheduler.foresight import Row
from tests.engines import MODEL, Talk, engine
from workers.prefixes import LEAST_TOKENS

SYSTEM: Final = "The quick brown fox jumps over the lazy dog. " * 4
QUESTIONS: Final = ["who?", "why did it do that, and what did the dog say?", "x" * 90]
SAMPLING: Final[list[dict[str, Any]]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.8, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    {"logprobs": 2, "logit_bias": {"101": 3.0}},
]
SLIDING: Final = {"sliding_window": 300, "sliding_window_pattern": 2}
TRIMMED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("llama", {}),
    "gemma3 in its window": ("gemma3_text", SLIDING),
    "qwen3_moe": ("qwen3_moe", {}),
    "deepseek_v3": ("deepseek_v3", {}),
}
UNTRIMMED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "gemma3 rotated": ("gemma3_text", {}),
    "mamba2": ("mamba2", {}),
    "granitemoehybrid": ("granitemoehybrid", {}),
    "qwen3_next": ("qwen3_next", {}),
}


def reused(result: dict[str, Any]) -> int:
    """What a job's client is told."""
    cached: int = result["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached


def computed(talk: Talk, key: str) -> int:
    """The prompt tokens that the engine computed for a job."""
    told = [step for step in talk.of("step") if key in step.get("computed", {})]
    return told[-1]["computed"][key] - sum(step.get("reused", {}).get(key, 0) for step in told)


class Near(list[float]):
    """Numbers that are alike where they differ in their last digits."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and [*self] == pytest.approx(other, abs=1e-3)

    __hash__ = None  # type: ignore[assignment]


def answer(talk: Talk, key: str) -> tuple[str, list[int], Near]:
    """What a job wrote, and how probable that was: company changes the last digits of that."""
    text = talk.result(key)["text"]
    entries = [entry for step in talk.steps(key) for entry in step.get("logprobs", ())]
    numbers = [each["logprob"] for entry in entries for each in (entry, *entry["top_logprobs"])]
    return text, talk.tokens(key), Near(numbers)


@contextmanager
def two(folder: Path, model: Path, **settings: Any) -> Iterator[tuple[Talk, Talk]]:
    """An engine that keeps nothing, and one that keeps."""
    with engine(folder, **settings) as without, engine(folder, prefix_cache=None, **settings) as talk:
        without.load(model)
        talk.load(model)
        yield without, talk


@pytest.mark.parametrize("kind", [*TRIMMED, *UNTRIMMED])
def test_answers_are_the_same_and_prompts_are_computed_once(tmp_path: Path, kind: str) -> None:
    """Greedy, seeded, with penalties, biases and probabilities, one after another and together. Where a cache cannot
    be cut at any token, everything is computed.
    """
    name, config = (TRIMMED | UNTRIMMED)[kind]
    model = write_random_model(tmp_path / "model", name, config, never_stops=True)
    asked = [
        {"prompt": SYSTEM + question, "max_tokens": 20, **fields}
        for fields in SAMPLING
        for question in QUESTIONS
    ]
    with two(tmp_path, model) as (without, talk):
        calm = [answer(without, without.run(**fields)) for fields in asked]
        alone = [talk.run(**fields) for fields in asked[:1]]
        assert [answer(talk, key) for key in alone] == calm[:1]
        alone += [talk.run(**fields) for fields in asked[1:]]  # they come together
        assert [answer(talk, key) for key in alone] == calm
        for key, fields in zip(alone, asked, strict=True):
            whole, least = len(fields["prompt"]), len(SYSTEM) if key != alone[0] and kind in TRIMMED else 0
            assert computed(talk, key) == whole - reused(talk.result(key))
            assert least <= reused(talk.result(key)) < (whole if least else 1)
        kept = talk.of("step")[-1]["memory"]["prefix_cache_bytes"]
        assert (kept > 0) == (kind in TRIMMED)
        assert without.of("step")[-1]["memory"]["prefix_cache_bytes"] == 0


def test_a_conversation_computes_what_is_new(tmp_path: Path, tiny_model: Path) -> None:
    """Three turns: of each the question, and of the answer before it at most its last token."""
    with two(tmp_path, tiny_model) as (without, talk):
        messages: list[dict[str, str]] = [{"role": "system", "content": SYSTEM}]
        before = 0
        for turn in range(3):
            messages.append({"role": "user", "content": f"{turn} " + "and then? " * 8})
            key = talk.run(messages=messages, max_tokens=70)
            plain = without.run(messages=messages, max_tokens=70)
            assert answer(talk, key) == answer(without, plain)
            result = talk.result(key)
            usage = result["usage"]
            new = usage["prompt_tokens"] - before
            assert new - 10 <= computed(talk, key) <= new + 2
            assert computed(without, plain) == usage["prompt_tokens"]
            before = usage["total_tokens"]
            messages.append({"role": "assistant", "content": result["text"]})


def test_a_job_that_comes_while_another_decodes_shares_its_prompt(tmp_path: Path, tiny_model: Path) -> None:
    """The first need not end; and the one that began with it goes on alone to its own end."""
    with two(tmp_path, tiny_model) as (without, talk):
        first = talk.run(prompt=SYSTEM + QUESTIONS[0], max_tokens=300)
        talk.until(lambda: len(talk.tokens(first)) > 3, "tokens")
        second = talk.run(prompt=SYSTEM + QUESTIONS[1], max_tokens=20)
        result = talk.result(second)
        assert len(talk.tokens(first)) < 300
        assert reused(result) >= len(SYSTEM)
        assert answer(talk, second) == answer(
            without, without.run(prompt=SYSTEM + QUESTIONS[1], max_tokens=20)
        )
        assert answer(talk, first) == answer(
            without, without.run(prompt=SYSTEM + QUESTIONS[0], max_tokens=300)
        )


def test_more_jobs_than_are_taken_up_at_once_share(tmp_path: Path, tiny_model: Path) -> None:
    """Of twelve that come together, those wait that find no place; and compute their questions alone."""
    with engine(tmp_path, prefix_cache=None, prefill_rows=2) as talk:
        talk.load(tiny_model)
        keys = [talk.run(prompt=SYSTEM + f"{at:02} what?", max_tokens=10) for at in range(12)]
        said = [reused(talk.result(key)) for key in keys]
        assert said[:2] == [0, 0] and all(tokens >= len(SYSTEM) for tokens in said[2:])
        assert sum(computed(talk, key) for key in keys) < 3 * len(SYSTEM) + 12 * 9


def test_an_interrupted_job_resumes_from_what_is_kept(tmp_path: Path, tiny_model: Path) -> None:
    """What it had was kept as it left: of its prompt and its tokens only the last is computed anew."""
    fields: dict[str, Any] = {
        "prompt": SYSTEM,
        "max_tokens": 40,
        "temperature": 0.9,
        "repetition_penalty": 1.2,
    }
    with two(tmp_path, tiny_model) as (without, talk):
        calm_key = without.run(**fields)
        calm = without.result(calm_key)
        first = talk.run(**fields | {"max_tokens": 400})
        talk.until(lambda: len(talk.tokens(first)) >= 25, "tokens")
        talk.supervisor.send({"kind": "remove", "key": first})
        talk.until(lambda: talk.of("removed"), "removed")
        tokens = without.tokens(calm_key)[:25]
        again = talk.run(**fields, so_far=tokens)
        result = talk.result(again)
        assert (result["text"], talk.tokens(again)) == (calm["text"], without.tokens(calm_key)[25:])
        assert computed(talk, again) == 1
        assert reused(result) == len(SYSTEM)


def test_keys_share_nothing(tmp_path: Path, tiny_model: Path) -> None:
    """What one key's jobs left, or decode, is computed again for another's, and for those that came without a key;
    the answers are the same.
    """
    mine, other, nobody = "a" * 16, "b" * 16, ""
    with two(tmp_path, tiny_model) as (without, talk):
        asked: dict[str, Any] = {"prompt": SYSTEM + QUESTIONS[1], "max_tokens": 20}
        calm = answer(without, without.run(**asked))
        decoding = talk.run(prompt=SYSTEM + QUESTIONS[0], max_tokens=900, scope=mine)
        talk.until(lambda: len(talk.tokens(decoding)) > 3, "tokens")
        keys = {scope: talk.run(**asked, scope=scope) for scope in (other, nobody, mine)}
        assert {scope: answer(talk, key) for scope, key in keys.items()} == dict.fromkeys(keys, calm)
        assert len(talk.tokens(decoding)) < 900, "the premise: it decodes still"
        shared = {scope: reused(talk.result(key)) for scope, key in keys.items()}
        assert shared[mine] >= len(SYSTEM)
        assert shared[other] == shared[nobody] == 0
        again = [talk.run(**asked, scope=scope) for scope in (nobody, other, "c" * 16)]
        whole = len(SYSTEM + QUESTIONS[1])
        assert [reused(talk.result(key)) for key in again] == [whole - 1, whole - 1, 0]
        assert [computed(talk, key) for key in again] == [1, 1, whole]


def test_a_stop_word_leaves_its_conversation(tmp_path: Path, tiny_model: Path) -> None:
    """A job that a word of its own ended is still in the batch: it is kept as those are that end by length."""
    with engine(tmp_path, prefix_cache=None) as talk:
        talk.load(tiny_model)
        calm = talk.result(talk.run(max_tokens=120))["text"]
        ended = talk.result(talk.run(max_tokens=120, stop=[calm[90:94]]))
        assert ended["finish_reason"] == "stop"
        again = talk.result(talk.run(prompt="Hello there" + calm[:80] + "!" * 9, max_tokens=2))
        assert reused(again) > LEAST_TOKENS


def test_models_keep_apart_and_an_unloaded_one_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    """Two models in one engine, the same prompts: each finds its own; what is dropped is in memory no more."""
    other = write_random_llama(tmp_path / "other", never_stops=True, seed=5)
    prompt = SYSTEM + QUESTIONS[0]
    with two(tmp_path, tiny_model) as (without, talk):
        for each in (without, talk):
            each.load(other, "other")
        for model in (MODEL, "other"):
            calm = answer(without, without.run(prompt=prompt, model=model))
            keys = [talk.run(prompt=prompt, model=model)]
            assert answer(talk, keys[0]) == calm
            keys.append(talk.run(prompt=prompt, model=model))
            assert answer(talk, keys[1]) == calm
            assert [reused(talk.result(key)) for key in keys] == [0, len(prompt) - 1]
        kept = talk.of("step")[-1]["memory"]["prefix_cache_bytes"]
        talk.supervisor.send({"kind": "unload", "model": "other"})
        talk.supervisor.send({"kind": "measure"})
        talk.until(lambda: talk.of("measured"), "measured")
        assert talk.of("measured")[-1]["memory"]["prefix_cache_bytes"] == kept // 2


def test_nobody_is_shed_while_prompts_are_kept(wide_model: Path, tmp_path: Path) -> None:
    """What is kept goes first, and as much as must: jobs that just fit run to their ends, within the budget."""
    with engine(tmp_path, blas_preload="auto") as roomy:
        card = roomy.load(wide_model)
    behind = combinations_with_replacement((0, 64, 300, 600, 630, 659), 3)  # who begins when, nobody can say
    lives = [[Row(600, 60, cached) for cached in begun] for begun in behind]
    budget = card.weights_bytes + max(batch_bytes(card, rows, 64, 8) for rows in lives)
    with engine(
        tmp_path, memory_budget=budget, prefix_cache=budget, cache_limit=0, blas_preload="auto"
    ) as talk:
        talk.load(wide_model)
        for letter in "abcdef":
            talk.result(talk.run(prompt=letter * 500, max_tokens=2))
        kept = talk.of("step")[-1]["memory"]["prefix_cache_bytes"]
        assert kept > 6 * 500 * sum(group.bytes_per_token for group in card.caches)
        keys = [talk.run(prompt=letter * 600, max_tokens=60) for letter in "xyz"]
        for key in keys:
            talk.result(key)
        assert talk.of("shed") == []
        told = [step["memory"] for step in talk.of("step")]
        assert min(memory["prefix_cache_bytes"] for memory in told[6:]) < 0.6 * kept
        assert max(memory["peak_bytes"] for memory in told) <= budget


def test_a_smaller_budget_takes_what_is_kept(tmp_path: Path, tiny_model: Path) -> None:
    """A setting bounds it in bytes."""
    text = SYSTEM + QUESTIONS[2]
    with engine(tmp_path, prefix_cache=300 * 512) as talk:
        talk.load(tiny_model)
        for at in range(4):
            talk.result(talk.run(prompt=f"{at}{text}", max_tokens=2))
        assert 0 < talk.of("step")[-1]["memory"]["prefix_cache_bytes"] <= 300 * 512
        assert reused(talk.result(talk.run(prompt=f"3{text}", max_tokens=2))) == len(text)
        assert reused(talk.result(talk.run(prompt=f"0{text}", max_tokens=2))) == 0
