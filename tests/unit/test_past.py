"""A worker's last quarter of an hour in a line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.recorded import CAPACITY, GIB, NOW, WORKER
from tidegate.client import Client
from tidegate.past import SECONDS, Past, line, spark
from tidegate.top import Watch
from tidegate.top_view import Scene, picture


def past(*points: tuple[float, float], marks: tuple[tuple[float, str], ...] = ()) -> Past:
    """Seconds ago, and the share of the budget that was used."""
    made = Past()
    made.take(
        {
            "points": [
                {"at": NOW - ago, "used_bytes": 100 * used, "budget_bytes": 100} for ago, used in points
            ],
            "marks": [{"at": NOW - ago, "kind": kind} for ago, kind in marks],
        }
    )
    return made


def test_it_is_to_scale() -> None:
    """A column has the most of its time; until something is told again, it is as it was last; the present is on the right."""
    assert spark(past((899, 0.0), (799, 1.0), (790, 0.5), (10, 0.99)), NOW, 9) == "▁█▅▅▅▅▅▅█"
    assert spark(past((350, 0.3)), NOW, 9) == "     ▃▃▃▃"
    assert spark(past((0, 7.0)), NOW, 3) == "  █"


def test_what_went_wrong_stands_where_it_did() -> None:
    """The worse of two; what ended or was admitted is no trouble."""
    marks = ((850, "shed"), (840, "out_of_memory"), (450, "preempted"), (440, "shed"), (5, "admitted"))
    assert spark(past((899, 0.0), marks=marks), NOW, 9) == "✗▁▁▁↓▁▁▁▁"


def test_a_line_says_of_when_it_is_and_the_most_that_was_used() -> None:
    """And nothing, where there is no past yet, or no room."""
    found = past((600, 0.1), (0, 0.2))
    assert line(found, NOW, 120).startswith("last 15 min  ")
    assert line(found, NOW, 120).endswith("  at most 20 B used")
    assert line(found, NOW, 78).endswith("  at most 20 B used")
    assert len(line(found, NOW, 78)) == 78
    assert len(line(found, NOW, 40)) == 40 and "used" not in line(found, NOW, 40)
    assert line(past((0, 0.2)), NOW, 120) == line(Past(), NOW, 120) == line(found, NOW, 10) == ""


@given(st.integers(0, 200), st.lists(st.tuples(st.floats(-50, 2000), st.floats(0, 5)), max_size=20))
def test_it_is_never_wider_than_it_may_be(width: int, points: list[tuple[float, float]]) -> None:
    """Whatever was told, of the future too."""
    found = past(*points)
    found.forget(NOW)
    assert cell_len(line(found, NOW, width)) <= width
    assert all(at >= NOW - SECONDS for at in found.points)


@pytest.mark.parametrize(
    "odd",
    [{}, {"points": 3, "marks": [None, {"at": "x"}]}, {"points": [None, {"at": 1e400, "used_bytes": "x"}]}],
)
def test_a_history_that_is_not_understood_is_left_out(odd: dict[str, Any]) -> None:
    """An API of another version may answer."""
    made = Past()
    made.take(odd)
    assert (made.points, made.marks) == ({}, set())


class Api:
    """Tells one worker's past, and notes how much of it was asked for."""

    url = "http://x"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def look(self, path: str, **query: Any) -> dict[str, Any]:
        """As :meth:`tidegate.client.Client.look`."""
        if path == "/v1/tide":
            self.asked.append(query["seconds"])
            points = [{"at": NOW - 600, "used_bytes": GIB, "budget_bytes": 16 * GIB}]
            return {
                "workers": [{"name": WORKER["name"], "points": points, "marks": []}, {"name": "gone"}, None]
            }
        return CAPACITY if path == "/v1/capacity" else {"data": []}


def test_top_shows_what_the_workers_tell_and_what_it_sees() -> None:
    """All of it once, then now and then what is new; those that are gone are forgotten."""
    api, clock = Api(), iter(range(1000))
    watch = Watch(cast("Client", api), lambda: next(clock) / 2, lambda: NOW)
    scene = watch.look()
    for _ in range(9):
        scene = watch.look()
    assert api.asked[:2] == [SECONDS, 20] and len(api.asked) < 9
    assert scene.past.keys() == {WORKER["name"]}
    (shown,) = (text for text in picture(scene, 100).plain.split("\n") if "last 15 min" in text)
    assert shown.endswith("at most 7.0 GiB used")
    assert "last 15 min" not in picture(replace(scene, past={}), 100).plain
    assert isinstance(scene, Scene)
