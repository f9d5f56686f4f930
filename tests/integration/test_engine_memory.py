"""The engine's memory: what batches take against what was estimated, and what the guard does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.random_models import write_random_llama
from scheduler.footprint import batch_bytes
from scheduler.foresight import Row
from scheduler.ledger import Holder, Ledger
from tests.engines import engine

PROMPT = "The quick brown fox jumps over the lazy dog. " * 4

ROWS: dict[str, list[tuple[int, int]]] = {
    "one short": [(10, 100)],
    "one long": [(900, 150)],
    "four alike": [(200, 70)] * 4,
    "eight short": [(20, 30)] * 8,
    "a long one joins seven short ones": [(20, 60)] * 7 + [(1000, 30)],
    "eight mixed": [(13 * (at + 1) ** 2, 20 + 10 * at) for at in range(8)],
}


def peaks(
    folder: Path, data: Path, chunk: int, shapes: dict[str, list[tuple[int, int]]]
) -> list[tuple[Any, ...]]:
    """For each batch: its name, the measured peak and the estimated one, weights counted."""
    found: list[tuple[Any, ...]] = []
    with engine(data, prefill_chunk=chunk, cache_limit=0, blas_preload="auto") as talk:
        card = talk.load(folder)
        for name, batch in shapes.items():
            start = len(talk.said)
            keys = [talk.run(prompt="x" * prompt, max_tokens=tokens) for prompt, tokens in batch]
            for key in keys:
                talk.result(key)
            peak = max(m["memory"]["peak_bytes"] for m in talk.said[start:] if m["kind"] == "step")
            rows = [Row(*shape) for shape in batch]
            found.append((name, peak, card.weights_bytes + batch_bytes(card, rows, chunk, 4)))
    return found


def test_no_batch_needs_more_than_its_footprint(wide_model: Path, tmp_path: Path) -> None:
    """The measured peak of real batches is within the estimate; and the estimate within a third of it."""
    found = peaks(wide_model, tmp_path, 64, ROWS)
    assert [line for line in found if not line[1] <= line[2] <= 1.33 * line[1]] == []


def test_no_large_chunk_needs_more_than_its_footprint(wide_model: Path, tmp_path: Path) -> None:
    """A chunk that was not probed is extrapolated, so the estimate may be wider."""
    found = peaks(wide_model, tmp_path, 512, {name: ROWS[name] for name in ("one long", "eight mixed")})
    assert [line for line in found if not line[1] <= line[2] <= 1.5 * line[1]] == []


@pytest.mark.parametrize("layers", [1, 2])
def test_no_shallow_model_needs_more_than_its_footprint(tmp_path: Path, layers: int) -> None:
    """Regrouping a batch copies a layer at a time: the fewer layers, the larger that is beside the whole."""
    folder = write_random_llama(
        tmp_path / "model", layers=layers, hidden=64, heads=8, kv_heads=8, head_dim=64, never_stops=True
    )
    found = peaks(folder, tmp_path, 64, {"eight short": [(20, 30)] * 8})
    assert [line for line in found if line[1] > line[2]] == []


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


def test_a_job_alone_goes_on_over_the_budget(wide_model: Path, tmp_path: Path) -> None:
    """The progress rule: a guard's reading stops nobody who is alone."""
    with engine(tmp_path, memory_budget=1 << 20) as talk:
        talk.load(wide_model)
        assert talk.result(talk.run(max_tokens=20))["finish_reason"] == "length"
        assert talk.of("shed") == []
