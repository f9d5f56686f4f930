"""The pictures in docs/ that are drawn from the code: the states from their table, the rooms from their imports."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import grimp

from benchmarks.drawing import Drawing
from scheduler.job import HOLDING, TERMINAL, TRANSITIONS, State

ROOMS: Final = {
    "api": ("jobs", "responses", "job_stream", "services", "reader", "outcomes"),
    "scheduler": (
        *("lifecycle", "door", "verdict", "admission", "recovery", "holding", "blame", "fleet"),
        *("ledger", "footprint", "queue", "events", "swap", "card", "job", "errors"),
    ),
    "workers": (
        *("metal_worker", "runner", "claiming", "hearing", "desk", "supervisor"),
        *("classifier", "engine", "batch", "probe", "guard", "models"),
    ),
}
"""Of each package the rooms that a job comes through, as docs/how-it-works.md tells it."""

LIBRARIES: Final = ("flask", "gunicorn", "llguidance", "mlx", "mlx_lm", "redis", "rq")
"""Those whose place in the project is a rule, or tells something."""

_COLUMN: Final = {"api": 300, "scheduler": 510, "workers": 340}
_ROW: Final = 64
_BOX: Final = (92, 26)
_STATE: Final = (130, 44)
_FULL: Final = 3
"""So many boxes in a row, and none is moved aside to let arrows by."""


_COLOURS: Final = {State.COMPLETED: "end", State.INCOMPLETE: "end", State.FAILED: "bad"}
"""Of the states in which something came of a job, or went wrong."""


def states_svg() -> str:
    """Where a job is, and what moves it on."""
    made = Drawing(780, 350, "The states of a job, and what moves it from one to the next")
    places = {state: (40.0, 140.0) for state in State if state not in TERMINAL | HOLDING}
    places |= dict.fromkeys(HOLDING, (290.0, 140.0))
    ends = [state for state in State if state in TERMINAL]
    places |= {state: (590.0, 30.0 + 78 * at) for at, state in enumerate(ends)}
    for state, (x, y) in places.items():
        made.rect(_COLOURS.get(state, "hold" if state in HOLDING else "box"), x, y, _STATE[0], _STATE[1], 8)
        made.text(x + _STATE[0] / 2, y + 27, state.value, anchor="middle")
    around = 0
    for (origin, event), target in TRANSITIONS.items():
        if target in TERMINAL and origin not in HOLDING:
            _go_around(made, places[origin], places[target], event.value, around)
            around += 1
        else:
            _go_straight(made, places[origin], places[target], event.value)
    made.text(355, 205, "memory is held", "small", "middle")
    return str(made)


def _go_around(
    made: Drawing, origin: tuple[float, float], target: tuple[float, float], word: str, at: int
) -> None:
    """Below the states in which memory is held, each a little above the one before it."""
    start, bend, right = origin[0] + 30 + 40 * at, 338 - 18 * at, target[0] + _STATE[0] + 28 - 14 * at
    made.path(
        "arrow",
        f"M{start:g} {origin[1] + _STATE[1]:g}V{bend}H{right:g}V{target[1] + 22:g}H{target[0] + _STATE[0] + 2:g}",
    )
    made.text(start + 120, bend - 4, word, "small")


def _go_straight(made: Drawing, origin: tuple[float, float], target: tuple[float, float], word: str) -> None:
    """The way back lies below the way there."""
    back = target[0] < origin[0]
    shift = 10 if back else -10 if origin[1] == target[1] else 0
    from_x, to_x = (origin[0], target[0] + _STATE[0] + 2) if back else (origin[0] + _STATE[0], target[0] - 2)
    from_y, to_y = origin[1] + 22 + shift, target[1] + 22 + shift
    made.path("arrow", f"M{from_x:g} {from_y:g}L{to_x:g} {to_y:g}")
    x, y = from_x + 0.58 * (to_x - from_x), from_y + 0.58 * (to_y - from_y)
    made.rect("over", x - 28, y - 8, 56, 15, 3)
    made.text(x, y + 3, word, "small", "middle")


@lru_cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS, "tidegate", include_external_packages=True, cache_dir=None)


def imports() -> dict[str, set[str]]:
    """Of each of :data:`ROOMS` those of them that it imports and that none of these imports again, straight or not."""
    names = [f"{package}.{room}" for package, rooms in ROOMS.items() for room in rooms]
    direct = {name: _graph().find_modules_directly_imported_by(name) & {*names} for name in names}
    reach = {name: set(direct[name]) for name in names}
    for _ in names:
        for name in names:
            reach[name].update(*(reach[other] for other in reach[name].copy()))
    return {
        name: {
            other for other in direct[name] if not any(other in reach[via] for via in direct[name] - {other})
        }
        for name in names
    }


def depths(edges: dict[str, set[str]]) -> dict[str, int]:
    """How many rooms stand below each, one on the other: 0 where it imports none of them."""

    @lru_cache(None)
    def depth(name: str) -> int:
        return 1 + max(map(depth, edges[name]), default=-1)

    return {name: depth(name) for name in edges}


def libraries() -> dict[str, list[str]]:
    """By package, those of :data:`LIBRARIES` that it imports."""
    graph = _graph()
    users = {
        library: {each.partition(".")[0] for each in graph.find_modules_that_directly_import(library)}
        for library in LIBRARIES
    }
    return {package: [library for library in LIBRARIES if package in users[library]] for package in ROOMS}


def rooms_svg() -> str:
    """The rooms that a job comes through, each above those that it imports."""
    edges = imports()
    level = depths(edges)
    rows = max(level.values()) + 1
    width, height = sum(_COLUMN.values()) + 70, rows * _ROW + 96
    made = Drawing(
        width, height, "The rooms that a job comes through: an arrow leads from a room to one that it imports"
    )
    left, places = 10.0, {}
    for package, rooms in ROOMS.items():
        made.rect("box", left, 44, _COLUMN[package] + 10, height - 54, 8)
        made.text(left + 8, 18, package, "title")
        made.text(left + 8, 34, "imports " + ", ".join(libraries()[package]), "small")
        for row in range(rows):
            mine = [room for room in rooms if level[f"{package}.{room}"] == row]
            for at, room in enumerate(mine):
                x = (
                    left
                    + 5
                    + (at + 0.5 + (0.12 if len(mine) < _FULL else 0) * (row % 3 - 1))
                    * _COLUMN[package]
                    / len(mine)
                )
                places[f"{package}.{room}"] = (x, height - 40 - row * _ROW)
        left += _COLUMN[package] + 25
    for name, others in edges.items():
        x, y = places[name]
        for other in sorted(others):
            to_x, to_y = places[other]
            made.path(
                "arrow",
                f"M{x:.0f} {y + 13:.0f}C{x:.0f} {y + 40:.0f} {to_x:.0f} {to_y - 44:.0f} {to_x:.0f} {to_y - 15:.0f}",
            )
    for name, (x, y) in places.items():
        package, _, room = name.partition(".")
        made.rect(
            "hold" if package == "workers" else "end" if package == "api" else "box",
            x - _BOX[0] / 2,
            y - 13,
            *_BOX,
            5,
        )
        made.text(x, y + 4, room, anchor="middle")
    return str(made)
