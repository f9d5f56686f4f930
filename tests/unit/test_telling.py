"""What the engine tells of its loops, and when."""

from __future__ import annotations

from typing import Any

import pytest

from workers.engine_job import JobStep
from workers.telling import TELL_SECONDS, Telling


class Loops:
    """Telling under a clock of its own, and what it said."""

    def __init__(self) -> None:
        self.now = 100.0
        self.said: list[dict[str, Any]] = []
        self.telling = Telling(self.said.append, lambda: self.now)
        self.kept: list[JobStep] = []

    def loop(self, *urgent: str, kept: str = "", seconds: float = 0.002, **more: Any) -> None:
        """One that brought news, some urgent."""
        self.kept += [JobStep(kept, [1])] if kept else []
        steps = [JobStep(key, [1]) for key in urgent]
        self.telling.tell(steps, lambda peak: {"peak_bytes": peak}, self.take, seconds=seconds, **more)
        self.now += seconds

    def take(self) -> list[JobStep]:
        taken, self.kept = self.kept, []
        return taken

    @property
    def keys(self) -> list[list[str]]:
        return [[step["key"] for step in message["steps"]] for message in self.said]


@pytest.fixture
def loops() -> Loops:
    loops = Loops()
    loops.loop()  # from here on nothing is due for a while
    loops.said.clear()
    return loops


def test_fast_steps_are_told_together(loops: Loops) -> None:
    """Thirty times a second, whatever came in between; the loops' time is their mean."""
    for _ in range(100):
        loops.loop(kept="a")
    assert 5 <= len(loops.said) <= 7
    assert sum(map(len, loops.keys)) + len(loops.kept) == 100
    assert loops.said[0]["seconds"] == pytest.approx(0.002)


def test_slow_steps_are_told_each(loops: Loops) -> None:
    """Nobody waits for a second step."""
    for _ in range(5):
        loops.loop(kept="a", seconds=TELL_SECONDS + 0.001)
    assert loops.keys[-3:] == [["a"]] * 3


def test_what_somebody_waits_for_is_told_at_once_and_alone(loops: Loops) -> None:
    """A first token or an end does not take the others' news along before they are due."""
    loops.loop(kept="a")
    loops.loop("b", kept="a")
    assert loops.keys == [["b"]]
    assert "seconds" not in loops.said[0]


def test_a_prompts_progress_is_told_at_once_with_its_own_time(loops: Loops) -> None:
    """The worker learns from it what a prompt takes: the decode steps before it are not mixed in."""
    loops.loop(kept="a")
    loops.loop(kept="a", seconds=0.5, computed={"c": 64}, extents={"m": [None, None]})
    assert loops.said == [
        loops.said[0] | {"seconds": 0.5, "computed": {"c": 64}, "extents": {"m": [None, None]}}
    ]
    loops.loop(kept="a")
    assert loops.said[1]["seconds"] == pytest.approx(0.002)
    assert len(loops.said[1]["steps"]) == 3


def test_nothing_is_said_where_nothing_is_new(loops: Loops) -> None:
    """Not even the time; it comes with the next news."""
    loops.loop()
    assert not loops.said


def test_the_largest_peak_is_told(loops: Loops) -> None:
    """Of all loops since the last message."""
    loops.loop(peak_bytes=1 << 50)
    loops.loop("a", peak_bytes=1)
    loops.loop("a", peak_bytes=1)
    assert [message["memory"]["peak_bytes"] for message in loops.said] == [1 << 50, 1]
