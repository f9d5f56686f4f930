"""How long a chunk of prompts may be beside running streams."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from workers.guard import CHUNK_LEAST
from workers.stride import Stride

GAP = 0.25


def seen(*loops: tuple[float, int], chunk: int = 512) -> Stride:
    """After loops of seconds and prompt tokens, each beside a decode step."""
    stride = Stride(GAP, chunk)
    for seconds, tokens in loops:
        stride.note(seconds, tokens, decodes=True)
    return stride


def test_chunks_are_as_long_as_the_gap_allows() -> None:
    """At 400 tokens a second a hundred take the quarter of a second; of two prompts, fifty each."""
    stride = seen((0.5, 200))
    assert stride.tokens(1, decodes=True) == 100
    assert stride.tokens(2, decodes=True) == 50
    assert stride.tokens(1, decodes=True, models=2) == 50  # another model computes as many in the same loop


def test_nobody_who_writes_nobody_who_waits() -> None:
    """Then they are as long as they may be, as before anything is known."""
    assert seen((5.0, 200)).tokens(1, decodes=False) == 512
    assert seen().tokens(1, decodes=True) == 512


def test_they_are_never_shorter_than_helps_nor_longer_than_set() -> None:
    """Sixteen tokens at least; where the setting is less, that."""
    assert seen((60.0, 16)).tokens(4, decodes=True) == CHUNK_LEAST
    assert seen((0.001, 512)).tokens(4, decodes=True) == 512
    assert seen((60.0, 8), chunk=8).tokens(1, decodes=True) == 8


def test_the_decode_step_is_not_the_prompts_time() -> None:
    """What a loop takes without prompts is taken off."""
    assert seen((0.1, 0), (0.6, 200)).tokens(1, decodes=True) == 100
    alone = Stride(GAP, 512)
    alone.note(0.1, 0, decodes=True)
    alone.note(0.5, 200, decodes=False)
    assert alone.tokens(1, decodes=True) == 100


def test_where_a_step_takes_longer_than_the_gap_prompts_may_too() -> None:
    """A stream that waits a second for each token anyway does not gain from chunks of nothing."""
    assert seen((1.0, 0), (2.0, 200)).tokens(1, decodes=True) == 200


def test_short_prompts_do_not_make_long_ones_slow() -> None:
    """A pass over one token takes as long as one over many: the last chunk that is one decides, old ones go."""
    assert seen((0.1, 1), (0.5, 200), (0.1, 1)).tokens(1, decodes=True) == 100
    assert seen((0.5, 200), *[(0.5, 20)] * 4).tokens(1, decodes=True) == CHUNK_LEAST


def test_the_gap_is_kept_where_a_chunk_costs_more_than_its_tokens() -> None:
    """A tenth of a second for each, and a millisecond a token, which a long context makes three: 50 tokens at last."""
    stride = seen((0.612, 512))
    taken = []
    for _ in range(6):
        tokens = stride.tokens(1, decodes=True)
        taken.append(0.1 + 0.003 * tokens)
        stride.note(taken[-1], tokens, decodes=True)
    assert max(taken[2:]) <= 1.1 * GAP
    assert 0.8 * GAP <= taken[-1] <= 1.05 * GAP


def test_without_a_bound_there_is_none() -> None:
    """As where batches are compared with what was foreseen of them."""
    stride = Stride(math.inf, 512)
    stride.note(5.0, 100, decodes=True)
    assert stride.tokens(1, decodes=True) == 512


@given(
    loops=st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10_000)), max_size=12),
    prompts=st.integers(0, 8),
    chunk=st.integers(16, 8192),
)
def test_a_chunk_is_always_one(loops: list[tuple[float, int]], prompts: int, chunk: int) -> None:
    """Whatever was measured, clocks that stand still included."""
    tokens = seen(*loops, chunk=chunk).tokens(prompts, decodes=True)
    assert min(CHUNK_LEAST, chunk) <= tokens <= chunk
