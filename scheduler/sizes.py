"""Sizes of memory as an operator writes them. Pure."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(text: str) -> int:
    """Read a size such as ``18GiB``, ``512m`` or ``1048576``.

    Units are powers of 1,024 whether or not the ``i`` is written.

    Raises:
        ValueError: ``text`` is not a number with an optional unit, or no memory is so large.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 18GiB")
    size = float(match[1]) * _UNITS[match[2]]
    if size >= 1 << 60:
        raise ValueError(f"{text!r} is more memory than there is")
    return int(size)
