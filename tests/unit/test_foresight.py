"""A batch's life in numbers: growth, company, and where rows are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.foresight import UNKNOWN, Loop, Row, next_loop, replay
from scheduler.rectangles import Batch, Place
from scheduler.slots import CacheGroup, Extent, Slots, Written

FULL = CacheGroup("full", 1, bytes_per_token=1)
WINDOW = CacheGroup("sliding", 1, bytes_per_token=1, window_tokens=300)


def written(at: int, slots: int, *, longest: int | None = None) -> Extent:
    return Extent(1, longest or at, (Written(at, at, slots, rotated=False),))


def slots_over(group: CacheGroup, updates: list[int]) -> list[int]:
    slots = Slots(group)
    found = []
    for tokens in updates:
        slots.advance(tokens)
        found.append(slots.slots)
    return found


def test_a_cache_grows_by_256_slots() -> None:
    """From where it is full; what it had of a part of 256 is cut off first."""
    assert slots_over(FULL, [1, 255, 1]) == [256, 256, 512]
    assert slots_over(FULL, [512, 512, 1]) == [512, 1024, 1280]
    assert slots_over(FULL, [300, 300]) == [512, 300 + 512]


def test_a_window_holds_itself_and_a_chunk() -> None:
    """In prefill the window less one and the chunk; in decode it grows up to the window and stays."""
    assert slots_over(WINDOW, [200, 200, 200]) == [200, 400, 499]
    assert slots_over(WINDOW, [200, 1, 1]) == [200, 300, 300]
    assert slots_over(WINDOW, [1] * 400)[::100] == [256, 256, 256, 300]
    assert slots_over(WINDOW, [400, 1]) == [400, 300]


def kinds(*rows: Row, chunk: int = 100, together: int = 2) -> list[tuple[str, int, int]]:
    return [(step.kind, step.rows, step.tokens) for step in replay([FULL], rows, chunk, together)]


def test_a_prompt_is_computed_in_chunks_and_its_last_token_by_itself() -> None:
    """Of 251 tokens 100, 100 and 50; then the first decode step, and the rest at once."""
    assert kinds(Row(251, 2)) == [
        *[("prefill", 1, 100), ("prefill", 1, 100), ("prefill", 1, 50)],
        *[("decode", 1, 1), ("decode", 1, 1)],
    ]


def test_prompts_are_padded_to_the_longest() -> None:
    """Two together, the third when the first has moved on; decoding goes on meanwhile."""
    assert kinds(Row(51, 5), Row(101, 5), Row(41, 5))[:4] == [
        ("prefill", 2, 100),
        ("decode", 2, 1),
        ("decode", 2, 1),
        ("prefill", 1, 40),
    ]


def test_rows_that_reuse_are_laid_out_as_they_are_taken_up() -> None:
    """Exactly as long as the longest of them, and then its chunk beside it; the rest of the prompt alone is computed.
    Beside a prompt under way both are as large as the larger.
    """
    reusing = [Row(200, 9, reused_tokens=150), Row(120, 9, reused_tokens=100)]
    loop = next_loop([FULL], reusing, 32, 4, UNKNOWN)
    assert [(step.kind, step.tokens, step.context_tokens, step.padded) for step in loop.steps] == [
        ("prefill", 32, 182, True)
    ]
    assert (loop.before_bytes, loop.steps[0].cache_bytes) == (0, 2 * (150 + 256))
    beside = next_loop([FULL], [Row(300, 9, 32), reusing[0]], 32, 4, (written(32, 256), None))
    assert beside.before_bytes == 256
    assert beside.steps[-1].cache_bytes == 2 * 256  # 150 and its chunk fit in the other's slots
    assert beside.steps[-1].context_tokens == 182
    assert beside.steps[-1].copied_bytes > 2 * 256


def test_all_but_one_token_may_be_reused() -> None:
    """Then it decodes at once; one that stays behind was laid out beside it."""
    loop = next_loop([FULL], [Row(200, 9, reused_tokens=199)], 32, 4, UNKNOWN)
    assert [(step.kind, step.rows, step.context_tokens) for step in loop.steps] == [("decode", 1, 200)]
    assert loop.steps[0].cache_bytes == 199 + 256
    both = next_loop(
        [FULL], [Row(300, 9, 32), Row(200, 9, reused_tokens=199)], 32, 4, (written(32, 256), None)
    )
    assert both.steps[0].held_bytes >= 2 * 256 + 199
    with pytest.raises(ValueError, match="one token of it to compute"):
        Row(200, 9, reused_tokens=200)


def test_a_window_takes_up_what_is_reused() -> None:
    """As long as that is, and its chunk behind it."""
    loop = next_loop([WINDOW], [Row(290, 9, reused_tokens=250)], 32, 4, UNKNOWN)
    assert loop.steps[0].cache_bytes == 250 + 32


def test_quiet_steps_are_passed_over() -> None:
    """A thousand tokens take a step for every growth and every end."""
    steps = list(replay([FULL], [Row(2, 1000)], 64, 1))
    assert len(steps) < 20
    assert max(step.context_tokens for step in steps) == 1002
    assert max(step.loops for step in steps) == 1001


def test_a_row_goes_on_from_where_it_is() -> None:
    """Waiting, in its prompt, or decoding; and a few tokens further than was said."""
    rows = [Row(300, 50, 310), Row(200, 9, 100), Row(7, 1)]
    loop = next_loop([FULL], rows, 100, 4, (written(100, 256), written(310, 313)))
    assert loop.before_bytes == 313 + 256
    assert [(step.kind, step.rows, step.tokens) for step in loop.steps] == [
        ("decode", 1, 1),
        ("prefill", 2, 99),
    ]
    late = next(iter(replay([FULL], rows[:1], 100, 4)))
    assert late.context_tokens == 310 + 16 + 40


@pytest.mark.parametrize("group", [FULL, WINDOW])
@pytest.mark.parametrize("length", [20, 290, 299, 300, 301, 700])
def test_where_nothing_is_known_a_row_is_where_it_would_have_come_to(group: CacheGroup, length: int) -> None:
    """The caches of a row in its prompt, or decoding, as after the chunks and steps that it took."""
    rows = [Row(800, 90, length), Row(length - 5, 90, length)]
    for row, single in zip(rows, (0, 6), strict=True):
        slots = Slots(group)
        for start in range(0, length - single, 100):
            slots.advance(min(100, length - single - start))
        for _ in range(single):
            slots.advance(1)
        assert next_loop([group], [row], 100, 1, UNKNOWN).before_bytes == pytest.approx(slots.slots, abs=256)
    (step,) = next_loop([WINDOW], rows[1:], 100, 1, UNKNOWN).steps
    assert step.cache_bytes <= 300


def test_a_row_that_went_on_since_is_that_much_further() -> None:
    """Told at 40 tokens and at 60 now: twenty slots more are written, beside the padding of ten."""
    (step,) = next_loop([FULL], [Row(30, 90, 60)], 64, 1, (None, written(50, 256, longest=40))).steps
    assert (step.context_tokens, step.cache_bytes) == (50 + 20 + 1, 256)
    (step,) = next_loop([FULL], [Row(30, 900, 250)], 64, 1, (None, written(50, 256, longest=40))).steps
    assert (step.context_tokens, step.cache_bytes) == (50 + 210 + 1, 512)


def test_a_window_that_was_rotated_stays_as_large_as_it_is() -> None:
    """However long the rows are."""
    real = Extent(1, 5000, (Written(17, 5000, 300, rotated=True),))
    loop = next_loop([WINDOW], [Row(4000, 9000, 5000)], 64, 1, (None, real))
    assert (loop.before_bytes, loop.steps[0].cache_bytes, loop.steps[0].copied_bytes) == (300, 300, 0)


def test_no_rows_have_no_life() -> None:
    """Nothing to come."""
    assert list(replay([FULL], [], 64, 1)) == []
    assert next_loop([FULL], [], 64, 1, UNKNOWN) == Loop([], 0)


def test_those_who_leave_take_their_padding_along() -> None:
    """A batch is cut to the longest that stays."""
    batch = Batch([FULL])
    batch.places = [Place(0, 400, 1), Place(0, 100, 1)]
    batch.advance(400)
    batch.keep(batch.places[1:])
    assert (batch.index, batch.held_bytes) == (100, 512 - 300)
    batch.keep([])
    assert (batch.index, batch.held_bytes, batch.copied_bytes) == (0, 0, 0)


@pytest.mark.parametrize("room", [0, 1])
def test_a_real_batchs_free_slots_decide_when_it_grows(room: int) -> None:
    """Without one the next token costs 256 for every row, with one none."""
    loop = next_loop([FULL], [Row(20, 90, 20)] * 3, 64, 4, (None, written(20, 20 + room)))
    (step,) = loop.steps
    assert loop.before_bytes == 3 * (20 + room)
    assert step.held_bytes - loop.before_bytes == (0 if room else 3 * 256)


def test_rows_that_come_are_copied_together_at_the_loops_end() -> None:
    """Until then each batch's caches are held as they were; what is decoded next copies nothing more."""
    moves, decodes = Row(100, 9, 99), Row(20, 90, 20)
    loop = next_loop([FULL], [moves, decodes], 64, 4, (written(99, 256), written(20, 256)))
    assert [(step.kind, step.rows) for step in loop.steps] == [("decode", 1), ("decode", 1), ("decode", 0)]
    assert loop.before_bytes == 2 * 256
    assert loop.steps[-1].copied_bytes == 384  # keys, or values, of both, and the shorter one's padded
    assert loop.steps[-1].cache_bytes == 2 * 256
    together = [replace(moves, cached_tokens=100), replace(decodes, cached_tokens=21)]
    after = next_loop([FULL], together, 64, 4, (None, written(100, 256)))
    assert [(step.held_bytes, step.copied_bytes) for step in after.steps] == [(2 * 256, 0)]


def test_rows_that_go_are_held_until_the_loops_end() -> None:
    """What they leave is cut out of the whole, which is there until then; a chunk beside it counts both."""
    ends, stays, prompt = Row(300, 1, 300), Row(100, 90, 100), Row(90, 5, 30)
    real = (written(30, 256), written(300, 512))
    decode, prefill, regroup, *_ = replay([FULL], [ends, stays, prompt], 64, 4, real)
    assert (decode.cache_bytes, prefill.held_bytes) == (2 * 512 + 256, 2 * 512 + 256)
    assert (regroup.rows, regroup.held_bytes) == (0, 2 * 512 + 256)
    assert regroup.cache_bytes == 512 - 200 + 256
    assert regroup.copied_bytes >= (512 + 296) // 2
