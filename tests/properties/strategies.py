"""What Hypothesis draws: rows, models' cards, waiting jobs."""

from __future__ import annotations

from hypothesis import strategies as st

from scheduler.card import ModelCard
from scheduler.foresight import Row
from scheduler.slots import CacheGroup

rows = st.builds(Row, st.integers(1, 5000), st.integers(1, 5000))
_lengths = st.integers(1, 60) | st.integers(500, 2500)
mixed_rows = st.builds(Row, _lengths, _lengths)

_groups = st.one_of(
    st.builds(CacheGroup, st.just("full"), st.just(2), bytes_per_token=st.integers(1, 5000)),
    st.builds(
        CacheGroup,
        st.just("sliding"),
        st.just(2),
        bytes_per_token=st.integers(1, 5000),
        window_tokens=st.integers(1, 4096),
    ),
    st.builds(CacheGroup, st.just("state"), st.just(2), state_bytes=st.integers(1, 1 << 20)),
)


def cards(model: str = "m") -> st.SearchStrategy[ModelCard]:
    """Cards of one model: any mixture of layers, any transient."""
    return st.builds(
        ModelCard,
        model=st.just(model),
        device=st.just("cpu"),
        weights_bytes=st.integers(0, 1 << 22),
        caches=st.lists(_groups, min_size=1, max_size=3).map(tuple),
        logits_bytes=st.integers(0, 1 << 16),
        chunk_bytes=st.sampled_from([((16, 0),), ((16, 5000), (64, 18_000)), ((64, 9), (512, 1 << 20))]),
        later_bytes=st.sampled_from(
            [
                (),
                ((16, 40.0, ((50, 2000.0),)),),
                ((16, 9.0, ((32, 9.0),)), (64, 300.0, ((9, 1e5), (900, 4e5)))),
            ]
        ),
        together=st.sampled_from([(), ((4, 16, 0.25),), ((2, 16, 1.0), (2, 64, 0.6))]),
        decode_bytes_per_key=st.floats(0, 4),
        decode_bytes=st.integers(0, 1 << 16),
        context_tokens=st.just(1 << 16),
    )
