"""The commands that the pages print, as a reader would copy them: each fenced block of a language, and where it stands."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_FENCED: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page, its first line counted from 1."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page of the project."""
    folders = (ROOT, ROOT / "docs", ROOT / "docs/decisions", ROOT / "examples")
    return [page for folder in folders for page in sorted(folder.glob("*.md"))]


def blocks(page: str, *languages: str) -> Iterator[Block]:
    """A page's blocks of some languages, in their order; what stands in a list is moved out of it."""
    text = (ROOT / page).read_text()
    for found in _FENCED.finditer(text):
        if found["language"] in languages:
            line = text.count("\n", 0, found.start()) + 2
            yield Block(page, line, found["language"], textwrap.dedent(found["text"]))
