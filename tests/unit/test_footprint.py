"""What a batch takes: its caches' life, and what its steps add."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scheduler.card import MARGIN, ModelCard
from scheduler.footprint import (
    alone_bytes,
    batch_bytes,
    chunk_bytes,
    fitted,
    joined_bytes,
    life,
    work_bytes,
)
from scheduler.footprint import transient_bytes as with_small_ones
from scheduler.foresight import Row, Step
from tests.cards import PLAIN, SLIDING, STATE

MEASURED = replace(PLAIN, chunk_bytes=((16, 1600), (64, 6400), (512, 51_200)), logits_bytes=1000)


def transient_bytes(card: ModelCard, step: Step) -> int:
    """Less the masks and positions that every step has."""
    return with_small_ones(card, step) - (1 << 16)


def step(
    kind: str = "prefill",
    rows: int = 1,
    tokens: int = 64,
    context: int = 64,
    copied: int = 0,
    *,
    padded: bool = False,
) -> Step:
    return Step(kind, rows, tokens, context, 0, 0, copied, 0, padded)  # type: ignore[arg-type]


def test_a_long_row_that_joins_pays_for_the_short_ones() -> None:
    """A batch is as long as its longest row: beside eight short rows it costs several times what it costs alone."""
    short, long = [Row(40, 40)] * 8, Row(2000, 49)
    added = joined_bytes(PLAIN, long, short, 512, 4) - batch_bytes(PLAIN, short, 512, 4)
    assert added > 5.5 * batch_bytes(PLAIN, [long], 512, 4)


def test_short_rows_that_end_first_do_not_pay_for_a_long_one() -> None:
    """Who has left the batch before its caches grow costs nothing then."""
    long = Row(10, 4000)
    assert batch_bytes(PLAIN, [long, Row(10, 20)], 512, 4) == batch_bytes(PLAIN, [long], 512, 4)


def test_a_sliding_cache_is_bounded_by_its_window() -> None:
    """However long the row, it keeps the window and a chunk less one."""
    assert max(each.cache_bytes for each, _ in life(SLIDING, [Row(9000, 900)], 64, 1)) == (512 + 64 - 1) * 100


def test_a_fixed_state_costs_the_same_at_any_length() -> None:
    """A recurrent layer's state does not grow; each row has its own."""
    for row in (Row(9, 1), Row(9000, 1), Row(4, 4000)):
        assert {each.cache_bytes for each, _ in life(STATE, [row] * 2, 512, 4)} == {2 * 7000}


def test_between_measured_chunks_a_line_is_drawn() -> None:
    """Exact at the measured lengths; beyond the last a margin more; never below nothing."""
    assert [chunk_bytes(MEASURED, tokens) for tokens in (16, 40, 64, 288, 512)] == [
        1600,
        4000,
        6400,
        28_800,
        51_200,
    ]
    assert chunk_bytes(MEASURED, 1024) == pytest.approx(1.2 * 102_400)
    assert chunk_bytes(replace(MEASURED, chunk_bytes=((16, 1600),)), 8) == 1600


def test_what_attention_takes_of_a_chunk_counts_with_its_square() -> None:
    """Between lengths; and a first chunk takes no less than its attention alone would of as many keys."""
    lines = ((16, 16.0, ((32, 512.0),)), (64, 64.0, ((128, 8192.0),)))
    card = replace(MEASURED, chunk_bytes=((16, 1256), (64, 5096)), later_bytes=lines)
    assert [chunk_bytes(card, tokens) for tokens in (16, 40, 64)] == [1256, 1000 + 40 * 40, 5096]
    assert chunk_bytes(replace(card, chunk_bytes=((64, 9),)), 64) == 64 * 64


def test_the_larger_kind_of_layer_counts() -> None:
    """A hybrid's layers follow each other: at a short context the one, at a long one the other."""
    card = replace(MEASURED, later_bytes=((64, 20.0, ((128, 20.0 * 128),)),))
    assert transient_bytes(card, step(context=64)) == int(6400 * MARGIN)
    assert transient_bytes(card, step(context=128)) == int(6400 * MARGIN)
    assert transient_bytes(card, step(context=1000)) == int(20 * 1000 * MARGIN)


def test_a_later_chunk_is_between_what_was_measured() -> None:
    """Of contexts and of lengths, there 8 % more; beyond the longest context on by so much a key."""
    short, long = (16, 10.0, ((32, 500.0), (1032, 2500.0))), (64, 30.0, ((128, 4000.0), (1128, 14_000.0)))
    card = replace(MEASURED, chunk_bytes=((16, 0), (64, 0)), later_bytes=(short, long))

    def taken(tokens: int, context: int) -> float:
        return work_bytes(card, step(tokens=tokens, context=context))

    assert [taken(64, context) for context in (100, 128, 628, 1128, 2128)] == [
        4000,
        4000,
        9000,
        14_000,
        44_000,
    ]
    assert [taken(16, context) for context in (32, 532, 1032, 5032)] == [500, 1500, 2500, 42_500]
    assert taken(40, 5032) == pytest.approx((42_500 + 14_000 + 30 * 3904) / 2 * 1.08)
    assert taken(128, 1128) == pytest.approx(2 * 14_000 * 1.2)


def test_what_a_second_chunk_takes_beyond_the_line_counts_once() -> None:
    """It is a kernel's workspace: four rows take the line four times and the rest once."""
    contexts = ((128, 6000.0), (1000, 10_000.0), (2000, 20_000.0))
    card = replace(MEASURED, chunk_bytes=((64, 0),), later_bytes=((64, 10.0, contexts),))
    assert work_bytes(card, step(rows=4, context=128)) == 4 * 1280 + (6000 - 1280)
    assert work_bytes(card, step(rows=4, context=1500)) == 4 * 15_000
    assert work_bytes(card, step(rows=4, context=3000)) == 4 * 30_000


def test_a_margin_that_was_learnt_is_of_long_chunks() -> None:
    """Short ones keep the usual one: nothing was learnt of them."""
    card = replace(MEASURED, prefill_margin=1.05)
    assert transient_bytes(card, step(tokens=512, context=512)) == int(51_200 * 1.05)
    assert transient_bytes(card, step(tokens=64, context=64)) == int(6400 * MARGIN)
    raised = replace(MEASURED, prefill_margin=1.4)
    assert transient_bytes(raised, step(tokens=64, context=64)) == int(6400 * 1.4)


def test_a_window_is_all_that_sliding_attention_sees() -> None:
    """A model of sliding layers only sees the window and its own chunk; beside a full layer, everything."""
    line = (64, 6400.0, ((100, 640_000.0),))
    sliding = replace(SLIDING, later_bytes=(line,), chunk_bytes=((64, 0),))
    assert transient_bytes(sliding, step(context=9000)) == int(575 * 6400 * MARGIN)
    mixed = replace(sliding, caches=(*SLIDING.caches, *PLAIN.caches))
    assert transient_bytes(mixed, step(context=9000)) == int(9000 * 6400 * MARGIN)


def test_prompts_together_may_take_less_than_each_alone() -> None:
    """Four took three times what one takes, so with 8 % more two take between; later attention is not shared."""
    card = replace(MEASURED, together=((4, 64, 0.75),), later_bytes=((64, 1000.0, ((128, 128_000.0),)),))
    taken = {rows: transient_bytes(card, step(rows=rows, context=64)) for rows in (1, 2, 4)}
    first = max(6400, 64 * 1000)
    assert taken == {
        rows: int(first * more * MARGIN) for rows, more in ((1, 1), (2, 1 + 2.24 / 3), (4, 3.24))
    }
    assert transient_bytes(card, step(rows=4, context=9000)) == int(4 * 9000 * 1000 * MARGIN)
    with pytest.raises(ValueError, match="shares"):
        replace(card, together=((4, 64, 0.2),))


def test_decoding_takes_six_rows_of_the_vocabulary_or_works() -> None:
    """Whichever is more: logits for each row, or its work and the copies of a growing layer."""
    assert transient_bytes(MEASURED, step("decode", rows=5, tokens=1)) == 30_000
    busy = replace(MEASURED, decode_bytes=10_000)
    assert transient_bytes(busy, step("decode", rows=5, tokens=1, copied=7)) == int(
        7 * 1.02 + 50_000 * MARGIN
    )


def test_metal_rounds_each_buffer_up() -> None:
    """Keys and values of each of two layers, of prompts and of rows that decode: a page of 16 KiB each."""
    metal = replace(MEASURED, device="metal: Apple M2")
    rows = [Row(600, 20)]
    assert batch_bytes(metal, rows, 512, 4) - batch_bytes(MEASURED, rows, 512, 4) == 2 * 4 * 16_384


def test_rows_of_different_lengths_take_a_mask_each() -> None:
    """Of every new token and every key, beside what the same rows take alike."""
    masks = replace(MEASURED, decode_bytes_per_key=3.0, padded_bytes_per_pair=2.0, logits_bytes=0)
    for kind, tokens in (("prefill", 16), ("decode", 1)):
        alike, padded = (
            transient_bytes(masks, step(kind, rows=4, tokens=tokens, context=900, padded=each))
            for each in (False, True)
        )
        assert padded - alike == pytest.approx(4 * tokens * 900 * 2 * MARGIN, abs=1)


def test_prompts_computed_together_are_bounded() -> None:
    """Of ten rows only as many prefill at once as the engine computes together."""
    one, four = (batch_bytes(MEASURED, [Row(400, 1)] * 10, 400, together) for together in (1, 4))
    assert 1.5 < four / one < 4


def test_what_was_computed_needs_no_more_prefill() -> None:
    """A row that decodes still needs its cache, not its prompt's chunks."""
    before, after = (batch_bytes(MEASURED, [Row(512, 40, done)], 512, 4) for done in (0, 520))
    assert after < before - 30_000


def test_nothing_takes_nothing() -> None:
    """An empty batch has no peak."""
    assert batch_bytes(PLAIN, [], 512, 4) == 0


def test_alone_counts_the_weights() -> None:
    """What decides whether a job could ever run: the weights and a batch of one."""
    assert alone_bytes(PLAIN, Row(10, 10), 512) == 1_000_000 + batch_bytes(PLAIN, [Row(10, 10)], 512, 1)


def test_a_row_is_cut_to_the_models_positions() -> None:
    """Of the prompt first, then of the answer; a token of each is left."""
    assert fitted(PLAIN, Row(10_000, 10_000)) == Row(4095, 1)
    assert fitted(PLAIN, Row(96, 10_000)) == Row(96, 4000)


@pytest.mark.parametrize("fields", [(0, 1), (1, 0), (-1, 5), (5, 5, -1), (5, 5, 11)])
def test_a_row_has_a_prompt_and_a_token(fields: tuple[int, ...]) -> None:
    """Less is not a job, nor is one that has computed more than it has."""
    with pytest.raises(ValueError, match="a row needs"):
        Row(*fields)


@pytest.mark.parametrize("points", [(), ((0, 1),), ((64, 1), (16, 2)), ((16, 1), (16, 2))])
def test_measured_chunks_ascend(points: tuple[tuple[int, int], ...]) -> None:
    """A card without them says nothing."""
    with pytest.raises(ValueError, match="must ascend"):
        replace(PLAIN, chunk_bytes=points)


def test_a_card_is_read_as_it_was_written() -> None:
    """Through JSON and back, groups, measured chunks and all."""
    card = replace(MEASURED, caches=PLAIN.caches + SLIDING.caches + STATE.caches, fingerprint="f")
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"version": 1},
        {"version": 2},
        {"version": 3},
        {"version": 4},
        {"version": 5},
        PLAIN.to_json() | {"version": None},
        PLAIN.to_json() | {"more": 1},
        PLAIN.to_json() | {"caches": 5},
        PLAIN.to_json() | {"caches": [{"kind": "full"}]},
        PLAIN.to_json() | {"chunk_bytes": [[1]]},
        PLAIN.to_json() | {"chunk_bytes": []},
        PLAIN.to_json() | {"chunk_bytes": [[16, -1]]},
        PLAIN.to_json() | {"weights_bytes": -1},
        PLAIN.to_json() | {"context_tokens": 0},
        PLAIN.to_json() | {"prefill_margin": 0.0},
        PLAIN.to_json() | {"decode_margin": float("nan")},
        PLAIN.to_json() | {"decode_bytes_per_key": float("inf")},
        PLAIN.to_json() | {"later_bytes": [[16, float("nan"), [[32, 0]]]]},
        PLAIN.to_json() | {"later_bytes": [[16, 0, [[32, 0]]], [16, 0, [[32, 0]]]]},
        PLAIN.to_json() | {"later_bytes": [[16, 0, []]]},
        PLAIN.to_json() | {"caches": [{"kind": "full", "layers": 0}]},
        PLAIN.to_json() | {"caches": [{"kind": "sliding", "layers": 1, "window_tokens": 0}]},
        {name: value for name, value in PLAIN.to_json().items() if name != "logits_bytes"},
    ],
)
def test_another_versions_card_is_refused(fields: dict[str, object]) -> None:
    """ValueError, so that the model is measured anew instead of misjudged."""
    with pytest.raises(ValueError):
        ModelCard.from_json(fields)
