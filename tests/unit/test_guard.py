"""What the guard does before a step, and whom it sheds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.footprint import CacheGroup, ModelCard, Row, batch_bytes, transient_bytes
from workers.guard import Action, Load, check, next_step_bytes, youngest_of_lowest

CARD = ModelCard(
    model="m",
    device="cpu",
    weights_bytes=1000,
    caches=(CacheGroup("full", 2, bytes_per_token=10),),
    logits_bytes=400,
    transient_fixed_bytes=50,
    transient_bytes_per_token=3.0,
    transient_bytes_per_pair=0.1,
    context_tokens=4096,
)
DECODES = Load("a", "standard", 1.0, length_tokens=20, prompt_left=0)
PROMPT = Load("b", "standard", 2.0, length_tokens=64, prompt_left=30)


@pytest.mark.parametrize(
    ("active", "cache", "growth", "jobs", "action"),
    [
        (50, 20, 30, 2, Action.GO),
        (50, 21, 30, 2, Action.DROP_CACHES),
        (70, 500, 30, 2, Action.DROP_CACHES),
        (71, 0, 30, 2, Action.SHED),
        (71, 500, 30, 2, Action.SHED),
        (71, 0, 30, 1, Action.DROP_CACHES),
        (10_000, 0, 0, 1, Action.DROP_CACHES),
        (101, 0, 0, 2, Action.SHED),
        (0, 0, 0, 0, Action.GO),
    ],
)
def test_the_guard_acts_as_its_table_says(
    active: int, cache: int, growth: int, jobs: int, action: Action
) -> None:
    """Within a budget of 100: caches go first, then jobs; a job that is alone is never shed."""
    assert check(active, cache, growth, 100, jobs) is action


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_what_is_over_the_budget_never_just_goes(active: int, cache: int, growth: int, budget: int) -> None:
    """GO means that use after the step stays within the budget; and idle memory latches nothing."""
    for jobs in (1, 2):
        action = check(active, cache, growth, budget, jobs)
        assert (action is Action.GO) == (active + cache + growth <= budget)
        assert action is not Action.SHED or (jobs > 1 and active + growth > budget)


def test_the_next_step_grows_with_rows_prompts_and_context() -> None:
    """Nothing without rows; more for another row, for a prompt in the step, for a longer context."""
    assert next_step_bytes(CARD, [], 64, 4, 9) == 0
    one = next_step_bytes(CARD, [DECODES], 64, 4, 0)
    two = next_step_bytes(CARD, [DECODES] * 2, 64, 4, 0)
    prompt = next_step_bytes(CARD, [DECODES] * 2 + [PROMPT], 64, 4, 0)
    longer = next_step_bytes(CARD, [DECODES] * 2 + [replace(PROMPT, length_tokens=900)], 64, 4, 0)
    assert 0 < one < two < prompt < longer


def test_a_growth_is_counted_for_every_row_that_decodes() -> None:
    """A cache grows 256 tokens at a time: without a free slot the next token costs as many, with one none."""
    step = transient_bytes(CARD, 3, 1, 20)
    assert next_step_bytes(CARD, [DECODES] * 3, 64, 4, 0) == 3 * 256 * 10 + step
    assert next_step_bytes(CARD, [DECODES] * 3, 64, 4, 1) == step


@given(st.lists(st.integers(1, 900), min_size=1, max_size=8), st.integers(1, 512), st.integers(1, 4))
def test_what_the_ledger_admits_the_guard_lets_go(prompts: list[int], chunk: int, together: int) -> None:
    """A batch's first step never asks for more than was reserved for its life: no shedding by estimate."""
    loads = [replace(PROMPT, length_tokens=0, prompt_left=tokens) for tokens in prompts]
    rows = [Row(tokens, 1) for tokens in prompts]
    assert next_step_bytes(CARD, loads, chunk, together, 0) <= batch_bytes(CARD, rows, chunk, together)


def load(key: str, priority: str, claimed_at: float) -> Load:
    return Load(key, priority, claimed_at, 1, 0)


@pytest.mark.parametrize(
    ("loads", "victim"),
    [
        ([("a", "interactive", 9), ("b", "batch", 1)], "b"),
        ([("a", "batch", 1), ("b", "batch", 2), ("c", "standard", 3)], "b"),
        ([("a", "interactive", 1), ("b", "interactive", 2)], "b"),
        ([("a", "standard", 5)], "a"),
    ],
)
def test_the_youngest_of_the_lowest_class_is_shed(loads: list[tuple[str, str, float]], victim: str) -> None:
    """Class decides before age."""
    assert youngest_of_lowest([load(*each) for each in loads]).key == victim
