"""The memory formula's rules, whatever the model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.footprint import ModelCard, Row, alone_bytes, batch_bytes, row_bytes
from tests.properties.strategies import cards, rows

chunks = st.integers(16, 8192)
batches = st.lists(rows, min_size=1, max_size=9)


@given(cards(), batches, rows, chunks, st.integers(1, 8))
def test_a_row_more_never_takes_less(
    card: ModelCard, batch: list[Row], more: Row, chunk: int, together: int
) -> None:
    """Monotone in rows: marginal costs are never negative."""
    assert batch_bytes(card, [*batch, more], chunk, together) >= batch_bytes(card, batch, chunk, together)


@given(cards(), batches, st.integers(0, 1000), st.integers(0, 1000), chunks, st.integers(1, 8))
def test_a_longer_row_never_takes_less(
    card: ModelCard, batch: list[Row], prompt: int, most: int, chunk: int, together: int
) -> None:
    """Monotone in prompt and in ``max_tokens``."""
    longer = [Row(batch[0].prompt_tokens + prompt, batch[0].max_tokens + most), *batch[1:]]
    assert batch_bytes(card, longer, chunk, together) >= batch_bytes(card, batch, chunk, together)


@given(cards(), st.permutations([Row(1, 1), Row(500, 3), Row(3, 500), Row(7, 7)]), chunks)
def test_order_does_not_matter(card: ModelCard, batch: list[Row], chunk: int) -> None:
    """A batch is a set of rows."""
    assert batch_bytes(card, batch, chunk, 2) == batch_bytes(card, sorted(batch, key=str), chunk, 2)


@given(cards(), batches, chunks, st.integers(1, 8))
def test_company_never_makes_a_job_impossible(
    card: ModelCard, batch: list[Row], chunk: int, together: int
) -> None:
    """What fits in company fits alone: *never fits* is judged alone, and is never too kind or too harsh."""
    whole = card.weights_bytes + batch_bytes(card, batch, chunk, together)
    assert all(alone_bytes(card, row, chunk) <= whole for row in batch)


@given(cards(), batches, chunks, st.integers(1, 8))
def test_the_rectangle_is_covered(card: ModelCard, batch: list[Row], chunk: int, together: int) -> None:
    """A batch's peak holds every row at the longest one's length."""
    longest = max(row.tokens for row in batch)
    assert batch_bytes(card, batch, chunk, together) >= len(batch) * row_bytes(card, longest, chunk)


@given(cards(), st.integers(1, 1 << 20), st.integers(0, 1 << 20), chunks)
def test_a_token_costs_at_most_its_layers(card: ModelCard, tokens: int, more: int, chunk: int) -> None:
    """A row grows by its layers' bytes for each token, or less where a window is full or a state is fixed."""
    slope = sum(group.bytes_per_token for group in card.caches)
    growth = row_bytes(card, tokens + more, chunk) - row_bytes(card, tokens, chunk)
    assert 0 <= growth <= more * slope
