"""Rows in columns: in as much room as there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tidegate.columns import Column, cut, joined, lines, padded

JOBS = [
    Column("job", ["job_1", "job_22"]),
    Column("model", ["a-long-name", "b"], rank=1, least=5),
    Column("class", ["batch", "standard"], rank=2),
]


def test_without_a_width_nothing_is_cut() -> None:
    """Not even what is longer than any screen; no line ends in spaces."""
    assert lines(JOBS) == [
        "job     model        class",
        "job_1   a-long-name  batch",
        "job_22  b            standard",
    ]


def test_columns_are_cut_before_they_are_left_out() -> None:
    """First those that may be cut; then the one of the highest rank goes."""
    assert lines(JOBS, 24)[1] == "job_1   a-lon…  batch"
    assert lines(JOBS, 22)[1] == "job_1   a-long-name"
    assert lines(JOBS, 14)[0] == "job     model"
    assert lines(JOBS, 10) == ["job", "job_1", "job_22"]


@given(
    st.lists(st.tuples(st.text("ab漢é", max_size=9), st.integers(0, 3), st.integers(0, 4))),
    st.integers(1, 40),
)
def test_no_line_is_wider_than_the_room(columns: list[tuple[str, int, int]], width: int) -> None:
    """Whatever is in it, wide characters too."""
    made = lines([Column("t", [text, text], rank, least) for text, rank, least in columns], width)
    assert all(cell_len(line) <= width for line in made)


@given(st.text("ab漢 é", max_size=12), st.integers(0, 12))
def test_a_cut_is_shown(text: str, width: int) -> None:
    """By one place; what fits is left as it is, and what is filled up is as wide as was wanted."""
    shown = cut(text, width)
    assert cell_len(shown) <= width
    assert shown == text if cell_len(text) <= width else not width or shown.endswith("…")
    assert cell_len(padded(text, width)) == width


def test_parts_are_left_out_from_the_last_on() -> None:
    """A line says less rather than being two."""
    assert joined(["one", "two", "three"], 10) == "one  two"
    assert joined(["one", "two", "three"], None) == "one  two  three"
    assert joined(["one", "two"], 2) == "o…"
