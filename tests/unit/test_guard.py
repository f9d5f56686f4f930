"""What the guard does before a step, and whom it sheds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.card import MARGIN
from scheduler.footprint import batch_bytes
from scheduler.foresight import UNKNOWN, Row
from scheduler.slots import CacheGroup, Extent, Written
from tests.cards import PLAIN
from workers.guard import CHUNK_LEAST, Action, Foreseen, Load, check, foresee, within, youngest_of_lowest

CARD = replace(
    PLAIN,
    caches=(CacheGroup("full", 2, bytes_per_token=10),),
    chunk_bytes=((16, 1000), (64, 4000)),
    decode_bytes=100,
)
DECODES = Load("a", "standard", 1.0, length_tokens=20, prompt_left=0)
PROMPT = Load("b", "standard", 2.0, length_tokens=64, prompt_left=30)


@pytest.mark.parametrize(
    ("used", "cache", "growth", "jobs", "dropped", "action"),
    [
        (50, 20, 30, 2, False, Action.GO),
        (50, 21, 30, 2, False, Action.DROP_CACHES),
        (50, 21, 30, 2, True, Action.GO),
        (70, 500, 30, 2, False, Action.DROP_CACHES),
        (71, 0, 30, 2, False, Action.DROP_CACHES),
        (71, 0, 30, 2, True, Action.SHED),
        (71, 500, 30, 2, True, Action.SHED),
        (71, 0, 30, 1, True, Action.GO),
        (10_000, 0, 0, 1, False, Action.DROP_CACHES),
        (10_000, 0, 0, 1, True, Action.GO),
        (101, 0, 0, 2, True, Action.SHED),
        (0, 0, 0, 0, False, Action.GO),
    ],
)
def test_the_guard_acts_as_its_table_says(
    used: int, cache: int, growth: int, jobs: int, dropped: bool, action: Action
) -> None:
    """Within a budget of 100: caches go first, then jobs; a job that is alone is never shed."""
    assert check(used, cache, growth, 100, jobs, dropped=dropped) is action


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_what_is_over_the_budget_never_just_goes(used: int, cache: int, growth: int, budget: int) -> None:
    """In company GO means that use after the step stays within the budget; and idle memory latches nothing."""
    for jobs in (1, 2):
        first = check(used, cache, growth, budget, jobs, dropped=False)
        assert (first is Action.GO) == (used + cache + growth <= budget)
        then = check(used, cache, growth, budget, jobs, dropped=True)
        assert (then is Action.SHED) == (jobs > 1 and used + growth > budget)


def test_a_chunk_is_shortened_as_far_as_it_takes() -> None:
    """To the longest that fits, halved; to the shortest where none does; a decode step has none to shorten."""

    def costs(tokens: int) -> Foreseen:
        return Foreseen(growth_bytes=10 * tokens, kind="prefill")

    assert within(640, 64, costs) == (64, costs(64))
    assert within(639, 64, costs) == (32, costs(32))
    assert within(0, 64, costs) == (CHUNK_LEAST, costs(CHUNK_LEAST))
    assert within(0, 100, costs)[0] == CHUNK_LEAST
    assert within(0, 8, costs)[0] == 8
    decode = Foreseen(growth_bytes=10, kind="decode")
    assert within(0, 64, lambda _: decode) == (64, decode)


def written(slots: int) -> Extent:
    return Extent(1, 20, (Written(20, 20, slots, rotated=False),))


def growth(*loads: Load, room: int = 0, chunk: int = 64, together: int = 4) -> int:
    return foresee(CARD, loads, chunk, together, (None, written(20 + room))).growth_bytes


def test_the_next_step_grows_with_rows_prompts_and_context() -> None:
    """Nothing without rows; more for another row, for a prompt in the step, for a longer context."""
    assert growth() == 0
    longer = replace(PROMPT, length_tokens=300)
    card = replace(CARD, later_bytes=((64, 640.0, ((128, 640.0 * 128),)),))
    assert 0 < growth(DECODES) < growth(DECODES, DECODES)
    assert growth(DECODES, DECODES, room=1) < growth(DECODES, DECODES, PROMPT, room=1)
    assert (
        foresee(card, [PROMPT], 64, 4, UNKNOWN).growth_bytes
        < foresee(card, [longer], 64, 4, UNKNOWN).growth_bytes
    )


def test_a_growth_is_counted_for_every_row_that_decodes() -> None:
    """A cache grows 256 tokens at a time: without a free slot the next token costs as many and a layer's
    copy, with one only its own work.
    """
    work = int(300 * MARGIN) + (1 << 16)
    assert growth(*[DECODES] * 3, room=1) == work
    assert growth(*[DECODES] * 3, room=0) == 3 * 256 * 10 + int(3 * 276 * 5 * 1.02 + 300 * MARGIN) + (1 << 16)


def test_what_a_step_will_take_is_told_apart() -> None:
    """Its kind and its own work, so that what it took can be compared."""
    prompt = foresee(CARD, [PROMPT], 64, 4, UNKNOWN)
    assert (prompt.kind, prompt.work_bytes) == ("prefill", pytest.approx((1000 + 13 * 62.5) * 1.08))
    decode = foresee(CARD, [DECODES], 64, 4, (None, written(25)))
    assert (decode.kind, decode.work_bytes, decode.other_bytes) == ("decode", 100, 0)


@settings(deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=8), st.integers(1, 512), st.integers(1, 4))
def test_what_the_ledger_admits_the_guard_lets_go(prompts: list[int], chunk: int, together: int) -> None:
    """A batch's first step never asks for more than was reserved for its life: no shedding by estimate."""
    loads = [replace(PROMPT, length_tokens=0, prompt_left=tokens) for tokens in prompts]
    rows = [Row(tokens, 1) for tokens in prompts]
    assert growth(*loads, chunk=chunk, together=together) <= batch_bytes(CARD, rows, chunk, together)


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
