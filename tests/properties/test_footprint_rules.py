"""The memory formula's rules, whatever the model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.card import ModelCard
from scheduler.footprint import batch_bytes, joined_bytes, life
from scheduler.foresight import Row, replay
from scheduler.rectangles import Batch
from tests.properties.strategies import cards, mixed_rows, rows

chunks = st.integers(16, 2048)
batches = st.lists(mixed_rows, min_size=1, max_size=7)


@given(cards(), st.lists(mixed_rows, min_size=1, max_size=4), chunks, st.integers(1, 4))
def test_what_is_passed_over_holds_no_peak(
    card: ModelCard, batch: list[Row], chunk: int, together: int
) -> None:
    """The life replayed in leaps has the peak, the caches and the length of the one replayed step by step."""
    leaps = list(life(card, batch, chunk, together))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "quiet_steps", 1)
        every = list(life(card, batch, chunk, together))
    assert max(size for _, size in leaps) == max(size for _, size in every)
    assert batch_bytes(card, batch, chunk, together) == max(size for _, size in every)
    assert leaps[-1][0].loops == every[-1][0].loops
    assert {step.cache_bytes for step, _ in leaps} == {step.cache_bytes for step, _ in every}


@given(cards(), batches, rows, chunks, st.integers(1, 8))
def test_a_row_more_never_takes_less(
    card: ModelCard, batch: list[Row], more: Row, chunk: int, together: int
) -> None:
    """Its batch's caches and their growth are not less for it, but for what a growth happens to leave over; and
    what is reserved for it covers the batch.
    """
    before, after = (
        max(step.held_bytes for step, _ in life(card, each, chunk, together))
        for each in (batch, [*batch, more])
    )
    assert after >= before - 256 * (len(batch) + 1) * sum(group.bytes_per_token for group in card.caches)
    assert joined_bytes(card, more, batch, chunk, together) >= batch_bytes(
        card, [*batch, more], chunk, together
    )


@given(cards(), rows, st.integers(0, 1000), st.integers(0, 1000), chunks)
def test_a_longer_row_never_caches_less(
    card: ModelCard, row: Row, prompt: int, most: int, chunk: int
) -> None:
    """Monotone in prompt and in ``max_tokens``, but for what a growth of 256 slots happens to leave over."""
    longer = Row(row.prompt_tokens + prompt, row.max_tokens + most)
    kept, more = (
        max(step.cache_bytes for step in replay(card.caches, [each], chunk, 1)) for each in (row, longer)
    )
    slack = 256 * sum(group.bytes_per_token for group in card.caches)
    assert more >= kept - slack


@given(cards(), batches, chunks, st.integers(1, 8))
def test_every_rows_cache_is_covered(card: ModelCard, batch: list[Row], chunk: int, together: int) -> None:
    """A batch's peak holds the longest row to its end."""
    full = sum(group.bytes_per_token for group in card.caches if group.kind == "full")
    longest = max(row.tokens for row in batch)
    assert batch_bytes(card, batch, chunk, together) >= full * longest
