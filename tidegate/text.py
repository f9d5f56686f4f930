"""Text and figures from an API, fit for a terminal: whoever answers may be of another version, or no friend. Pure."""

from __future__ import annotations

import math
import unicodedata
from typing import Any, Final

_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What makes a terminal show text in another order than it has; marks beside single letters stay."""


def printable(text: str) -> str:
    """The text without control characters, which a terminal would obey, and without those that turn it round."""
    return "".join(c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in _TURNING))


def on_one_line(said: object) -> str:
    """Whatever was said, without control characters and line ends; a dash where nothing was."""
    return "-" if said is None else " ".join(printable(str(said)).split())


def figure(said: object) -> float:
    """A number, 0 where it is none or not finite."""
    if isinstance(said, bool) or not isinstance(said, int | float):
        return 0.0
    try:
        return float(said) if math.isfinite(said) else 0.0
    except OverflowError:
        return 0.0


def fields_of(said: object, name: str | None = None) -> dict[str, Any]:
    """An object's fields, or those of its field ``name``; none where it is no object."""
    if name is not None:
        said = said.get(name) if isinstance(said, dict) else None
    return said if isinstance(said, dict) else {}


def list_of(said: object, name: str) -> list[Any]:
    """The list in an object's field; empty where there is none."""
    found = fields_of(said).get(name)
    return found if isinstance(found, list) else []
