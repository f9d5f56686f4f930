"""A worker's last quarter of an hour in one line: how much of its budget was used, and where memory ran out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from scheduler.errors import gib
from tidegate.text import fields_of, figure, list_of, on_one_line

SECONDS: Final = 900
_COLUMNS: Final = 60
_LEAST_COLUMNS: Final = 20
"""With fewer, the most that was used goes unsaid: the columns show it too."""

_LEVELS: Final = "▁▂▃▄▅▆▇█"
_SIGNS: Final = {"shed": "↓", "preempted": "↓", "out_of_memory": "✗", "engine_died": "✗"}
"""Of marks, by kind; the later in this order hides the others of its column. Other kinds are not shown."""

_WORST: Final = "↓✗"
_MOST: Final = 4 * SECONDS
"""Points that are kept: a worker writes one a second."""


@dataclass(slots=True)
class Past:
    """What is known of one worker, by Unix seconds: bytes used and its budget, and kinds of marks."""

    points: dict[float, tuple[float, float]] = field(default_factory=dict)
    marks: set[tuple[float, str]] = field(default_factory=set)

    def note(self, at: float, worker: Mapping[str, Any]) -> None:
        """Take how it is now, as ``/v1/capacity`` has it."""
        self.points[at] = figure(worker.get("used_bytes")), figure(worker.get("budget_bytes"))

    def take(self, history: Mapping[str, Any]) -> None:
        """Take a history of ``/v1/tide``; what is not understood of it is left out."""
        for point in map(fields_of, list_of(history, "points")):
            if at := figure(point.get("at")):
                self.note(at, point)
        for mark in map(fields_of, list_of(history, "marks")):
            if at := figure(mark.get("at")):
                self.marks.add((at, on_one_line(mark.get("kind"))))

    def forget(self, now: float) -> None:
        """Drop what is older than is shown."""
        since = now - SECONDS
        kept = sorted(at for at in self.points if at >= since)[-_MOST:]
        self.points = {at: self.points[at] for at in kept}
        self.marks = {(at, kind) for at, kind in self.marks if at >= since}


def line(past: Past, now: float, width: int) -> str:
    """The line, at most so wide; empty where there is less to say than one column's time."""
    most = max((used for used, _ in past.points.values()), default=0)
    before, behind = f"last {SECONDS // 60} min  ", f"  at most {gib(int(most))} used"
    if width - len(before) - len(behind) < _LEAST_COLUMNS:
        behind = ""
    columns = min(_COLUMNS, width - len(before) - len(behind))
    drawn = spark(past, now, columns) if columns > 0 else ""
    if len(drawn.strip()) < 2:  # noqa: PLR2004 - one column is no history
        return ""
    return before + drawn + behind


def spark(past: Past, now: float, columns: int) -> str:
    """So many columns, the present on the right: of each the most that was used, or a sign of what went wrong.

    Where nothing was told for a while, it was as it was before; where nothing is known yet, there is a space.
    """
    each = SECONDS / columns

    def column(at: float) -> int:
        return columns - 1 - int(max(0.0, now - at) // each)

    levels: dict[int, float] = {}
    last: dict[int, float] = {}
    for at, (used, budget) in sorted(past.points.items()):
        if (place := column(at)) >= 0 and budget > 0:
            levels[place] = max(levels.get(place, 0.0), used / budget)
            last[place] = used / budget
    drawn, before = [], None
    for place in range(columns):
        level = levels.get(place, before)
        drawn.append(" " if level is None else _level(level))
        before = last.get(place, before)
    _sign(drawn, ((column(at), kind) for at, kind in past.marks))
    return "".join(drawn)


def _level(share: float) -> str:
    return _LEVELS[min(len(_LEVELS) - 1, int(share * len(_LEVELS)))]


def _sign(drawn: list[str], marks: Iterable[tuple[int, str]]) -> None:
    for place, kind in marks:
        sign = _SIGNS.get(kind)
        if sign and 0 <= place < len(drawn) and _WORST.find(sign) >= _WORST.find(drawn[place]):
            drawn[place] = sign
