"""The engine's memory: what batches take against what was estimated, and what the guard does."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from string import ascii_lowercase

import pytest

from benchmarks.batches import Case, run_case
from benchmarks.random_models import write_random_llama
from scheduler.batch_account import Holder
from scheduler.footprint import batch_bytes
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from scheduler.request import read_request
from tests.engines import MODEL, Talk, engine
from workers.batch import ModelBatch
from workers.engine_job import RunningJob
from workers.models import load_model
from workers.probe import measure
from workers.text import JobText

PROMPT = "The quick brown fox jumps over the lazy dog. " * 4

ROWS: dict[str, list[tuple[int, int, int]]] = {
    "one short": [(10, 100, 0)],
    "one long": [(900, 150, 0)],
    "four alike": [(200, 70, 0)] * 4,
    "eight short": [(20, 30, 0)] * 8,
    "a long one beside seven short ones": [(20, 60, 0)] * 7 + [(1000, 30, 0)],
    "eight mixed": [(13 * (at + 1) ** 2, 20 + 10 * at, 0) for at in range(8)],
    "one after another": [(300, 90, 0), (40, 60, 5), (700, 20, 30), (9, 200, 31)],
}
"""Jobs of each batch: prompt and answer in tokens, and by which step they come."""


def measured(
    folder: Path, chunk: int, shapes: dict[str, list[tuple[int, int, int]]]
) -> list[tuple[str, Case]]:
    """Each batch's footprint, foreseen and measured."""
    loaded = load_model("wide", str(folder))
    card = measure(loaded, "cpu", chunk_tokens=chunk, load_seconds=60)  # time for every probe
    batch = ModelBatch(loaded, card, chunk_tokens=chunk, prefill_rows=4, max_batch=8)
    return [(name, run_case(batch, card, loaded, jobs)) for name, jobs in shapes.items()]


@pytest.mark.parametrize("chunk", [64, 512])
def test_no_batch_needs_more_than_its_footprint(wide_model: Path, chunk: int) -> None:
    """The measured peak of real batches is within the estimate, and the estimate within a third of it; their
    caches are foreseen to the byte.
    """
    found = measured(wide_model, chunk, ROWS)
    assert [(name, case) for name, case in found if not 0 <= case.over <= 0.33] == []
    assert [name for name, case in found if case.kv_measured_bytes != case.kv_foreseen_bytes] == []


@pytest.mark.parametrize("layers", [1, 2])
def test_no_shallow_model_needs_more_than_its_footprint(tmp_path: Path, layers: int) -> None:
    """Regrouping a batch copies an array at a time, and half of one more may be in flight: the fewer layers, the
    larger that is beside the whole. Which operations are in flight together differs, and the most seen is held.
    """
    folder = write_random_llama(
        tmp_path / "model", layers=layers, hidden=64, heads=8, kv_heads=8, head_dim=64, never_stops=True
    )
    ((_, case),) = measured(folder, 64, {"eight short": ROWS["eight short"]})
    assert 0 <= case.over <= 0.5


def test_the_shortest_chunk_is_measured_however_slow_the_machine(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is time for nothing longer, a card is made of it."""
    monkeypatch.setattr("workers.probe._FLOOR_SECONDS", 0.0)
    card = measure(load_model("slow", str(tiny_model)), "cpu", chunk_tokens=64)
    assert [tokens for tokens, _ in card.chunk_bytes] == [15]
    assert [tokens for tokens, *_ in card.later_bytes] == [15]


def steps_held_back(batch: ModelBatch, budget_bytes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Of one job's steps, how many were evaluated an operation at a time; and all of them."""
    held: list[None] = []
    for room in ("batch", "regrouping"):
        monkeypatch.setattr(
            f"workers.{room}.one_at_a_time", lambda: held.append(None) or contextlib.nullcontext()
        )
    request = read_request({"model": "wide", "prompt": "-", "temperature": 0})
    text = JobText(batch.loaded.tokenizer, ())
    batch.add(RunningJob("job", request, "standard", 0.0, [65] * 90, [], 60, 1, text))
    steps = 0
    while len(batch):
        batch.foresee(budget_bytes)
        batch.step(budget_bytes)
        steps += 1
    return len(held), steps


def test_steps_are_held_back_near_the_budget_and_seldom_elsewhere(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near it all of them, so that none takes more than it must; elsewhere only the few that are measured. And,
    near it, each time where caches are regrouped, as the job begins to decode and as it ends.
    """
    loaded = load_model("wide", str(tiny_model))
    card = measure(loaded, "cpu", chunk_tokens=64)
    near, far = (ModelBatch(loaded, card, chunk_tokens=64, prefill_rows=4, max_batch=8) for _ in range(2))
    held, steps = steps_held_back(near, 0, monkeypatch)
    assert held - 2 == steps > 60
    held, steps = steps_held_back(far, 1 << 40, monkeypatch)
    assert held < steps / 4


def test_the_engine_sheds_when_the_next_step_does_not_fit(wide_model: Path, tmp_path: Path) -> None:
    """The youngest of the lowest class goes; the one that is left, alone, always goes on; and the one that
    was shed goes on from its tokens to the text it would have had.
    """
    with engine(tmp_path) as roomy:
        card = roomy.load(wide_model)
        calm_key = roomy.run(prompt=PROMPT, max_tokens=450)
        calm = roomy.result(calm_key)
    # Room for two rows of 512 tokens and some more, but not for both to grow by another 256.
    room = 1300 * sum(group.bytes_per_token for group in card.caches) + 2 * card.decode_bytes
    with engine(tmp_path, memory_budget=card.weights_bytes + room, cache_limit=0, prefill_chunk=16) as talk:
        talk.load(wide_model)
        kept = talk.run(prompt=PROMPT, max_tokens=450, priority="standard", claimed_at=1.0)
        shed = talk.run(prompt=PROMPT, max_tokens=450, priority="standard", claimed_at=2.0)
        assert talk.result(kept) == calm
        assert [message["key"] for message in talk.of("shed")] == [shed]
        tokens = talk.tokens(shed)
        assert 0 < len(tokens) < 450 and talk.tokens(kept)[: len(tokens)] == tokens
        again = talk.run(prompt=PROMPT, max_tokens=450, so_far=tokens)
        assert talk.result(again) == calm


@pytest.mark.parametrize("chunk", [64, 512])
def test_the_guard_sheds_nothing_that_was_reserved(wide_model: Path, tmp_path: Path, chunk: int) -> None:
    """A batch whose footprint is just the budget runs to its end: reservations are kept."""
    rows = [Row(600, 20)] * 3
    with engine(tmp_path, prefill_chunk=chunk, blas_preload="auto") as roomy:
        card = roomy.load(wide_model)
    ledger = Ledger(1 << 40, chunk, 4)
    ledger.admit_model(card)
    for number, row in enumerate(rows):
        ledger.reserve(Holder(f"job_{number}", 1), card.model, row)
    budget = ledger.weights_bytes + ledger.reserved_bytes
    with engine(
        tmp_path, prefill_chunk=chunk, memory_budget=budget, cache_limit=0, blas_preload="auto"
    ) as talk:
        talk.load(wide_model)
        keys = [talk.run(prompt="x" * 600, max_tokens=20) for _ in rows]
        talk.until(
            lambda: talk.of("shed") or all("result" in (talk.steps(key) or [{}])[-1] for key in keys),
            "results",
        )
        assert talk.of("shed") == []


def test_a_chunk_is_shortened_before_anybody_is_shed(tmp_path: Path) -> None:
    """Where a long prompt's chunk does not fit beside a job that decodes, a shorter one does: nobody goes back, the
    texts are as they were, and what is used stays within the budget.
    """
    long, chunk = "x" * 1500, 512
    folder = write_random_llama(
        tmp_path / "model", layers=2, hidden=64, heads=16, kv_heads=1, head_dim=16, never_stops=True
    )
    with engine(tmp_path, prefill_chunk=chunk, blas_preload="auto") as roomy:
        card = roomy.load(folder)
        calm = [roomy.result(roomy.run(prompt=text, max_tokens=100)) for text in (PROMPT, long)]
    rows = [Row(len(PROMPT), 100), Row(1500, 100)]
    whole, budget = (
        card.weights_bytes + batch_bytes(card, rows, tokens, 4) for tokens in (chunk, chunk // 4)
    )
    assert budget < 0.6 * whole
    with engine(
        tmp_path, prefill_chunk=chunk, memory_budget=budget, cache_limit=0, blas_preload="auto"
    ) as talk:
        talk.load(folder)
        keys = [talk.run(prompt=text, max_tokens=100) for text in (PROMPT, long)]
        assert [talk.result(key) for key in keys] == calm
        assert talk.of("shed") == []
        assert max(step["memory"]["peak_bytes"] for step in talk.of("step")) <= budget
        told = [step["computed"] for step in talk.of("step") if keys[1] in step.get("computed", {})]
        chunks = [after[keys[1]] - before[keys[1]] for before, after in itertools.pairwise(told)]
        assert max(chunks) <= chunk // 2


TRIES = 8
"""A step that the machine held up makes pieces beside it long, and rightly: it takes no shorter one of several tries."""


def longest_piece(talk: Talk, key: str) -> int:
    """Prompt tokens of a job that were computed between two of its batch's steps, at most."""
    told = [step["computed"].get(key) for step in talk.of("step") if "computed" in step]
    return max(after - before for before, after in itertools.pairwise([0, *filter(None, told)]))


def beside_a_stream(talk: Talk, model: str, letter: str, tokens: int) -> int:
    """The longest piece of a prompt that is computed while another job writes."""
    writes = talk.run(max_tokens=1500)
    talk.until(lambda: talk.tokens(writes), "a token")
    key = talk.run(model=model, prompt=letter * tokens, max_tokens=4)
    talk.result(key)
    return longest_piece(talk, key)


def test_running_streams_do_not_stand_still_for_a_prompt(tiny_model: Path, tmp_path: Path) -> None:
    """Beside a job that writes, a long prompt is computed in pieces that take no longer than a step does; alone,
    in chunks as long as they may be.
    """
    with engine(tmp_path, prefill_chunk=1024, token_gap=1e-6) as talk:
        talk.load(tiny_model)
        alone = talk.run(prompt="x" * 2400, max_tokens=4)
        talk.result(alone)
        assert longest_piece(talk, alone) == 1024
        assert any(beside_a_stream(talk, MODEL, letter, 2400) <= 512 for letter in ascii_lowercase[:TRIES])


def test_streams_do_not_stand_still_for_another_models_prompt(tiny_model: Path, tmp_path: Path) -> None:
    """One loop steps every model's batch, so a prompt keeps all of their streams waiting."""
    with engine(tmp_path, prefill_chunk=256, token_gap=1e-6) as talk:
        talk.load(tiny_model)
        talk.load(tiny_model, "other")
        alone = talk.run(model="other", prompt="x" * 600, max_tokens=4)
        talk.result(alone)
        assert longest_piece(talk, alone) == 256
        assert any(beside_a_stream(talk, "other", letter, 600) <= 128 for letter in ascii_lowercase[:TRIES])


def test_a_job_alone_goes_on_over_the_budget(wide_model: Path, tmp_path: Path) -> None:
    """The progress rule: a guard's reading stops nobody who is alone."""
    with engine(tmp_path, memory_budget=1 << 20) as talk:
        talk.load(wide_model)
        assert talk.result(talk.run(max_tokens=20))["finish_reason"] == "length"
        assert talk.of("shed") == []
