"""Small SVG files, drawn line by line: the same facts make the same file, which a light and a dark page can show."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

_STYLE: Final = """\
  <style>
    .paper {fill: #ffffff}
    text {font: 13px system-ui, sans-serif; fill: #1f2328}
    .small {font-size: 11px; fill: #59636e}
    .title {font-weight: 600}
    .box {fill: #f6f8fa; stroke: #59636e}
    .end {fill: #dafbe1; stroke: #1a7f37}
    .hold {fill: #ddf4ff; stroke: #0969da}
    .bad {fill: #ffebe9; stroke: #cf222e}
    .line {fill: none; stroke: #59636e}
    .arrow {fill: none; stroke: #59636e; marker-end: url(#head)}
    .head {fill: #59636e}
    .over {fill: #ffffff; opacity: 0.85}
    @media (prefers-color-scheme: dark) {
      .paper {fill: #0d1117}
      text {fill: #f0f6fc}
      .small {fill: #9198a1}
      .box {fill: #151b23; stroke: #9198a1}
      .end {fill: #12261e; stroke: #3fb950}
      .hold {fill: #121d2f; stroke: #4493f8}
      .bad {fill: #25171c; stroke: #f85149}
      .line, .arrow {stroke: #9198a1}
      .head {fill: #9198a1}
      .over {fill: #0d1117}
    }
  </style>
  <defs>
    <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
      <path class="head" d="M0 0 8 4 0 8z"/>
    </marker>
  </defs>"""


class Drawing:
    """A picture that grows; lengths are pixels, from the upper left.

    Args:
        width: of the picture.
        height: likewise.
        title: what it shows, for who cannot see it.
        style: rules for the classes of its own, CSS.
    """

    def __init__(self, width: int, height: int, title: str, style: str = "") -> None:
        self._lines = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
                f' height="{height}" role="img">'
            ),
            f"  <title>{escape(title)}</title>",
            _STYLE.replace("  </style>", f"{style}  </style>"),
            f'  <rect class="paper" width="{width}" height="{height}"/>',
        ]

    def rect(self, kind: str, x: float, y: float, width: float, height: float, radius: float = 0) -> None:
        """A rectangle of a class."""
        rounded = f' rx="{radius:g}"' if radius else ""
        self._lines.append(
            f'  <rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"{rounded}/>'
        )

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        """A line of words; ``anchor`` is ``start``, ``middle`` or ``end``."""
        named = f' class="{kind}"' if kind else ""
        self._lines.append(
            f'  <text{named} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def path(self, kind: str, steps: str) -> None:
        """A path of a class, in SVG's own words."""
        self._lines.append(f'  <path class="{kind}" d="{steps}"/>')

    def area(
        self, kind: str, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]
    ) -> None:
        """What lies between two lines."""
        around = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*upper, *reversed(lower)))
        self._lines.append(f'  <polygon class="{kind}" points="{around}"/>')

    def polyline(self, kind: str, points: Sequence[tuple[float, float]]) -> None:
        """A line through points."""
        through = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._lines.append(f'  <polyline class="{kind}" points="{through}"/>')

    def __str__(self) -> str:
        return "\n".join([*self._lines, "</svg>", ""])
