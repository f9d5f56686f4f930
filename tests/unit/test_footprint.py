"""The memory formula: a rectangle, windows, fixed states, and the larger transient."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scheduler.footprint import GROWTH_TOKENS, CacheGroup, ModelCard, Row, alone_bytes, batch_bytes, row_bytes

PLAIN = ModelCard(
    model="m",
    device="cpu",
    weights_bytes=1_000_000,
    caches=(CacheGroup("full", 2, bytes_per_token=100),),
    logits_bytes=0,
    transient_fixed_bytes=0,
    transient_bytes_per_token=0.0,
    transient_bytes_per_pair=0.0,
    context_tokens=4096,
)
SLIDING = replace(PLAIN, caches=(CacheGroup("sliding", 2, bytes_per_token=100, window_tokens=512),))
STATE = replace(PLAIN, caches=(CacheGroup("state", 2, state_bytes=7000),))


def test_a_batch_is_a_rectangle_as_long_as_its_longest_row() -> None:
    """Eight short rows and a long one cost nine long ones: 9 × (2,049 + 255) × 100 bytes, and a layer's copy."""
    rows = [Row(40, 10)] * 8 + [Row(2000, 49)]
    rectangle = 9 * (2049 + GROWTH_TOKENS - 1) * 100
    assert batch_bytes(PLAIN, rows, 512, 4) == rectangle + int(0.9 * rectangle)  # 1.8 layers of its two


def test_a_long_row_that_joins_pays_for_the_short_ones() -> None:
    """Its marginal cost is the new rectangle less the old one, ten times its cost alone."""
    short, long = [Row(40, 10)] * 8, Row(2000, 49)
    marginal = batch_bytes(PLAIN, [*short, long], 512, 4) - batch_bytes(PLAIN, short, 512, 4)
    slots = 9 * (2049 + 255) - 8 * (50 + 255)
    assert marginal == pytest.approx(1.9 * slots * 100, abs=2)
    assert marginal > 7 * batch_bytes(PLAIN, [long], 512, 4)


def test_a_short_row_that_joins_a_long_one_costs_a_long_row() -> None:
    """The rectangle again: short beside long is long."""
    long = Row(2000, 49)
    marginal = batch_bytes(PLAIN, [long, Row(1, 1)], 512, 4) - batch_bytes(PLAIN, [long], 512, 4)
    assert marginal == batch_bytes(PLAIN, [long], 512, 4)


def test_a_sliding_cache_is_bounded_by_its_window() -> None:
    """However long the row, it keeps the window and a chunk less one."""
    bound = (512 + 64 - 1) * 100
    assert [row_bytes(SLIDING, tokens, 64) for tokens in (10_000, 1 << 20)] == [bound, bound]
    assert row_bytes(SLIDING, 10, 64) == row_bytes(PLAIN, 10, 64) < bound


def test_a_fixed_state_costs_the_same_at_any_length() -> None:
    """A recurrent layer's state does not grow; each row has its own."""
    assert [row_bytes(STATE, tokens, 512) for tokens in (1, 4096, 1 << 20)] == [7000] * 3
    assert batch_bytes(STATE, [Row(1, 1), Row(9000, 1)], 512, 4) == int(2 * 7000 * 1.9)


def test_kinds_of_layers_add_up() -> None:
    """A hybrid model's row is the sum over its groups."""
    hybrid = replace(PLAIN, caches=PLAIN.caches + SLIDING.caches + STATE.caches)
    parts = [row_bytes(card, 3000, 256) for card in (PLAIN, SLIDING, STATE)]
    assert row_bytes(hybrid, 3000, 256) == sum(parts)


def test_the_larger_transient_counts() -> None:
    """A step prefills or decodes: three logits a row, or the chunk's tokens and pairs with a margin."""
    card = replace(STATE, caches=(), logits_bytes=1000, transient_bytes_per_token=1.0)
    assert batch_bytes(card, [Row(8, 1)], 512, 4) == 3000
    assert batch_bytes(card, [Row(8, 1)] * 5, 512, 4) == 15_000
    assert batch_bytes(replace(card, transient_bytes_per_token=1000.0), [Row(8, 1)], 4, 4) == 4600
    pairs = replace(card, transient_bytes_per_token=0.0, transient_bytes_per_pair=10.0)
    assert batch_bytes(pairs, [Row(100, 100)], 50, 4) == int(50 * 200 * 10 * 1.15)


def test_prompts_computed_together_are_bounded() -> None:
    """Of ten rows only as many prefill at once as the engine computes together."""
    card = replace(STATE, caches=(), transient_bytes_per_token=1000.0)
    one, four = (batch_bytes(card, [Row(100, 1)] * 10, 100, together) for together in (1, 4))
    assert four == pytest.approx(4 * one, abs=4)


def test_nothing_takes_nothing() -> None:
    """An empty batch has no peak."""
    assert batch_bytes(PLAIN, [], 512, 4) == 0


def test_alone_counts_the_weights() -> None:
    """What decides whether a job could ever run: the weights and a batch of one."""
    assert alone_bytes(PLAIN, Row(10, 10), 512) == 1_000_000 + batch_bytes(PLAIN, [Row(10, 10)], 512, 1)


@pytest.mark.parametrize(("prompt", "most"), [(0, 1), (1, 0), (-1, 5)])
def test_a_row_has_a_prompt_and_a_token(prompt: int, most: int) -> None:
    """Less is not a job."""
    with pytest.raises(ValueError, match="a row needs"):
        Row(prompt, most)


def test_a_card_is_read_as_it_was_written() -> None:
    """Through JSON and back, groups and all."""
    card = replace(PLAIN, caches=PLAIN.caches + SLIDING.caches + STATE.caches)
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"version": 2},
        {"version": 1},
        PLAIN.to_json() | {"version": None},
        PLAIN.to_json() | {"more": 1},
        PLAIN.to_json() | {"caches": 5},
        PLAIN.to_json() | {"caches": [{"kind": "full"}]},
        {name: value for name, value in PLAIN.to_json().items() if name != "logits_bytes"},
    ],
)
def test_another_versions_card_is_refused(fields: dict[str, object]) -> None:
    """ValueError, so that the model is measured anew instead of misjudged."""
    with pytest.raises(ValueError):
        ModelCard.from_json(fields)
