"""A worker's budget as a bar: weights, reserved, cache and headroom, in the ledger's order and words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from scheduler.errors import gib
from tidegate.columns import GAP, cut
from tidegate.text import figure


class Part(NamedTuple):
    """A part of a budget: its word, its bytes, and how it is drawn, where there are no colours too."""

    word: str
    size_bytes: int
    letter: str
    style: str


_PREFIXES: Final = ("prefixes", "▞", "cyan")
"""Of the cache, what is kept for jobs that begin alike."""


def bar(worker: Mapping[str, Any], width: int) -> Text:
    """The bar, exactly as wide as it may be; all headroom where nothing is known."""
    made = Text()
    drawn: list[Part] = []
    for part in _parts(worker):
        if part.word == "cache":  # its prefixes are drawn apart, behind the rest of it
            word, letter, style = _PREFIXES
            inner = _prefixes(worker)
            drawn += [part._replace(size_bytes=part.size_bytes - inner), Part(word, inner, letter, style)]
        else:
            drawn.append(part)
    for part, count in zip(drawn, shares([part.size_bytes for part in drawn], width), strict=True):
        made.append(part.letter * count, part.style)
    return made


def legend(worker: Mapping[str, Any], width: int) -> Text:
    """What the bar says, in words: how much of the cache is prefixes is left out where there is no room, not their sign."""
    words = [(f"{part.letter} {part.word} {gib(part.size_bytes)}", part.style) for part in _parts(worker)]
    if inner := _prefixes(worker):
        name, letter, style = _PREFIXES
        with_prefixes = [*words[:3], (f"(of it {letter} {name} {gib(inner)})", style), *words[3:]]
        both = [*words[:2], (words[2][0].replace(" ", f"{letter} ", 1), words[2][1]), *words[3:]]
        if _width(with_prefixes, GAP) <= width:
            words = with_prefixes
        elif _width(both, " ") <= width:
            words = both
    gap = GAP if _width(words, GAP) <= width else " "
    made = Text()
    for said, style in words:
        made.append(cut((gap if made else "") + said, max(0, width - cell_len(made.plain))), style)
    return made


def _width(words: Sequence[tuple[str, str]], gap: str) -> int:
    return cell_len(gap.join(said for said, _ in words))


def shares(sizes: Sequence[int], width: int) -> list[int]:
    """A width in parts as large as sizes: together all of it, and none of a size empty while there is room.

    What rounding down leaves goes to those that lost most by it (the largest remainders).
    """
    total = sum(sizes)
    if not total:
        return [*([0] * (len(sizes) - 1)), width]
    found = [size * width // total for size in sizes]
    lost = sorted(range(len(sizes)), key=lambda at: sizes[at] * width % total, reverse=True)
    for at in lost[: width - sum(found)]:
        found[at] += 1
    for at, size in enumerate(sizes):
        if size and not found[at] and (most := max(found)) > 1:
            found[found.index(most)] -= 1
            found[at] = 1
    return found


def _parts(worker: Mapping[str, Any]) -> tuple[Part, ...]:
    return (
        Part("weights", _size(worker, "weights"), "█", "blue"),
        Part("reserved", _size(worker, "reserved"), "▓", "magenta"),
        Part("cache", _size(worker, "cache"), "▒", "cyan"),
        Part("headroom", _size(worker, "headroom"), "░", "dim"),
    )


def _prefixes(worker: Mapping[str, Any]) -> int:
    return min(_size(worker, "prefix_cache"), _size(worker, "cache"))


def _size(worker: Mapping[str, Any], name: str) -> int:
    return max(0, int(figure(worker.get(f"{name}_bytes"))))
