"""What a target is: a reader of ours, what it may answer to bad input, and the inputs that are kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"

Run = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """One reader.

    Args:
        name: its own, and that of its folder in the corpus.
        seeds: good inputs, of which bad ones are made.
        open: what stays open over many inputs, and gives what takes one: it returns where the answer was one that
            the reader may give, and raises where it was not.
        pure: whether an input needs nothing but the processor.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    open: Callable[[], AbstractContextManager[Run]]
    pure: bool = False

    @property
    def folder(self) -> Path:
        """Where its inputs are kept."""
        return CORPUS / self.name

    def kept(self) -> list[bytes]:
        """The inputs that are kept: each once did harm, or stands for a kind that does not."""
        return [path.read_bytes() for path in sorted(self.folder.glob("*"))]
