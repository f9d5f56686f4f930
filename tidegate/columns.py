"""Rows of text in columns, and in as much room as there is: what does not fit is left out, never wrapped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size

GAP: Final = "  "
_CUT: Final = "…"


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        title: what stands above it.
        cells: a row's each.
        rank: those of the highest rank are left out first; those of rank 0 never are.
        least: cells may be cut to so many places rather than that a column is left out; 0: they are never cut.
    """

    title: str
    cells: Sequence[str]
    rank: int = 0
    least: int = 0

    @property
    def width(self) -> int:
        """Places on the screen."""
        return max(map(cell_len, (self.title, *self.cells)))

    @property
    def needed(self) -> bool:
        """Whether any row has something to say in it."""
        return any(cell not in {"", "-"} for cell in self.cells)


def lines(
    columns: Sequence[Column], width: int | None = None, widths: Sequence[int] | None = None
) -> list[str]:
    """The title's line, and one for each row.

    Args:
        columns: from left to right, all with as many cells.
        width: places that there are; None: as many as it takes, and nothing is cut or left out.
        widths: of the columns, where they have more than their own and as many as it takes.
    """
    kept, widths = list(columns), widths or [column.width for column in columns]
    if width is not None:
        kept = _fitting(kept, width)
        widths = _widths(kept, width)
    rows = zip(*((column.title, *column.cells) for column in kept), strict=True)
    made = (GAP.join(padded(cell, size) for cell, size in zip(row, widths, strict=True)) for row in rows)
    return [cut(line.rstrip(), width) if width is not None else line.rstrip() for line in made]


def padded(text: str, width: int) -> str:
    """The text in so many places: filled up, or cut, which is shown."""
    return set_cell_size(cut(text, width), width)


def cut(text: str, width: int) -> str:
    """The text in at most so many places; what is cut off is shown by one of them."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + _CUT if width > 0 else ""


def joined(parts: Sequence[str], width: int | None, gap: str = GAP) -> str:
    """As many of the parts as fit in one line, from the first on; the first is cut where it must be."""
    if width is None:
        return gap.join(parts)
    kept = list(parts)
    while len(kept) > 1 and cell_len(gap.join(kept)) > width:
        kept.pop()
    return cut(gap.join(kept), width)


def _fitting(columns: list[Column], width: int) -> list[Column]:
    """The columns that fit, at their least."""
    kept = list(columns)
    while _total(min(column.width, column.least or column.width) for column in kept) > width:
        least_wanted = max(kept, key=lambda column: column.rank)
        if not least_wanted.rank:
            break
        kept.remove(least_wanted)
    return kept


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Their widths; those that may be cut give what is too much, the widest first."""
    widths = [column.width for column in columns]
    while _total(widths) > width:
        spare = [
            (widths[at] - column.least, at)
            for at, column in enumerate(columns)
            if column.least and widths[at] > column.least
        ]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


def _total(widths: Iterable[int]) -> int:
    sizes = list(widths)
    return sum(sizes) + len(GAP) * max(0, len(sizes) - 1)
