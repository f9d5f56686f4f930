"""The picture of one run's memory, from what :mod:`benchmarks.memory_run` kept of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from benchmarks.drawing import Drawing

_WIDTH: Final = 860
_HEIGHT: Final = 420
_LEFT: Final = 92
_RIGHT: Final = 16
_TOP: Final = 56
_BOTTOM: Final = 118
_MIB: Final = 1 << 20
_LABELS: Final = 14
_STEPS: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)

LAYERS: Final = ("weights_bytes", "reserved_bytes", "cache_bytes", "headroom_bytes")
"""From the bottom up; together they are the budget, always."""

MARKS: Final = ("admitted", "put back", "out of memory", "ended")

_STYLE: Final = """\
    .weights_bytes {fill: #8250df; opacity: 0.75}
    .reserved_bytes {fill: #54aeff; opacity: 0.75}
    .cache_bytes {fill: #d4a72c; opacity: 0.75}
    .headroom_bytes {fill: #afb8c1; opacity: 0.3}
    .used_bytes {fill: none; stroke: #cf222e; stroke-width: 1.5}
    .working_bytes {fill: none; stroke: #1f2328; stroke-dasharray: 5 3}
    .admitted {fill: none; stroke: #0969da}
    .put_back {fill: none; stroke: #bc4c00; stroke-width: 2}
    .out_of_memory {fill: none; stroke: #cf222e; stroke-width: 2}
    .ended {fill: none; stroke: #1a7f37}
    @media (prefers-color-scheme: dark) {
      .working_bytes {stroke: #f0f6fc}
      .used_bytes, .out_of_memory {stroke: #ff7b72}
      .admitted {stroke: #79c0ff}
      .put_back {stroke: #ffa657}
      .ended {stroke: #56d364}
    }
"""


def memory_svg(kept: Mapping[str, Any]) -> str:
    """Weights, reservations, caches and what is left, one on the other, under the budget; what is in use; what happened."""
    names, points, marks = kept["said"], kept["points"], kept["marks"]
    series = {name: [point[1 + at] for point in points] for at, name in enumerate(names)}
    times = [point[0] for point in points]
    end, most = max(times), max(series["budget_bytes"])
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(seconds: float, held_bytes: float) -> tuple[float, float]:
        return _LEFT + across * seconds / end, _TOP + down * (1 - held_bytes / most / 1.04)

    title = f"One run under a budget of {most // _MIB} MiB: {counted(kept)}"
    made = Drawing(_WIDTH, _HEIGHT, title, _STYLE)
    made.text(_LEFT, 22, title, "title")
    made.text(_LEFT, 40, kept["rest"]["machine"], "small")
    below = [0] * len(times)
    for layer in LAYERS:
        above = [low + own for low, own in zip(below, series[layer], strict=True)]
        made.area(
            layer,
            *(
                [place(*each) for each in zip(_steps(times), _held(line), strict=True)]
                for line in (above, below)
            ),
        )
        below = above
    for name in ("used_bytes", "working_bytes"):
        line = zip(_steps(times), _held(series[name]), strict=True)
        made.polyline(name, [place(*each) for each in line])
    base = _TOP + down
    for share in range(5):
        size = most * share / 4
        made.text(_LEFT - 6, place(0, size)[1] + 4, f"{size / _MIB:.0f}", "small", "end")
    made.text(_LEFT - 6, _TOP - 4, "MiB", "small", "end")
    for row, kind in enumerate(MARKS):
        height = base + 14 + 13 * row
        made.text(_LEFT - 6, height + 4, kind, "small", "end")
        for at, what, _ in marks:
            if what == kind and at <= end:
                made.path(kind.replace(" ", "_"), f"M{place(at, 0)[0]:.1f} {height - 5}v10")
    step = next(each for each in _STEPS if end / each <= _LABELS)
    for second in range(0, int(end) + 1, step):
        made.text(place(second, 0)[0], base + 74, f"{second} s", "small", "middle")
    _legend(made, base + 98)
    return str(made)


def _legend(made: Drawing, height: float) -> None:
    left = float(_LEFT)
    words = {
        "weights_bytes": "weights",
        "reserved_bytes": "reserved",
        "cache_bytes": "cache",
        "headroom_bytes": "headroom",
    }
    for kind, word in words.items():
        made.rect(kind, left, height - 10, 14, 12)
        made.text(left + 20, height, word, "small")
        left += 92
    for kind, word in (("used_bytes", "in use, measured"), ("working_bytes", "what jobs may hold now")):
        made.path(kind, f"M{left:g} {height - 4:g}h22")
        made.text(left + 28, height, word, "small")
        left += 148


def _steps(times: list[float]) -> list[float]:
    """Each moment twice, but for the first: a report holds until the next one."""
    return [times[0], *(time for each in times[1:] for time in (each, each))]


def _held(values: list[int]) -> list[int]:
    return [*(value for each in values[:-1] for value in (each, each)), values[-1]]


def counted(kept: Mapping[str, Any]) -> str:
    """What happened, in numbers."""
    happened = [kind for _, kind, _ in kept["marks"]]
    moments = [at for at, kind, _ in kept["marks"] if kind == "out of memory"]
    deaths = sum(
        at - before > 1 for before, at in pairwise((-math.inf, *moments))
    )  # an engine's jobs go back together
    return (
        f"{sum(kept['rest']['jobs'].values())} jobs, {happened.count('admitted')} admissions,"
        f" {happened.count('put back')} put back, {'once' if deaths == 1 else f'{deaths} times'} out of memory"
    )
