"""What Hypothesis draws: rows, models' cards, waiting jobs."""

from __future__ import annotations

from hypothesis import strategies as st

from scheduler.footprint import CacheGroup, ModelCard, Row

rows = st.builds(Row, st.integers(1, 5000), st.integers(1, 5000))
mixed_rows = st.builds(Row, st.integers(1, 60), st.integers(1, 60) | st.integers(500, 1500))

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
        transient_fixed_bytes=st.integers(0, 1 << 16),
        transient_bytes_per_token=st.floats(0, 1000),
        transient_bytes_per_pair=st.floats(0, 4),
        context_tokens=st.just(1 << 16),
    )
