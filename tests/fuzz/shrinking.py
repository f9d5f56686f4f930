"""Makes an input that does harm small, so that whoever reads it sees what does it: pieces are left out while it fails alike."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Final

TRIES_MOST: Final = 400
SECONDS_MOST: Final = 20.0


def smallest(data: bytes, run: Callable[[bytes], None], seconds: float = SECONDS_MOST) -> bytes:
    """The input, less every piece that its failure does not need, as far as tries and time reach.

    Args:
        data: fails.
        run: what it fails in.
        seconds: for all tries together; one that has begun is not cut short.
    """
    wanted = _failure(data, run)
    until, tries = time.monotonic() + seconds, TRIES_MOST
    size = max(1, len(data) // 2)
    while size and wanted:
        at, made_smaller = 0, False
        while at < len(data):
            if not tries or time.monotonic() > until:
                return data
            tries -= 1
            less = data[:at] + data[at + size :]
            if _failure(less, run) == wanted:
                data, made_smaller = less, True
            else:
                at += size
        size = size if made_smaller else size // 2
    return data


def _failure(data: bytes, run: Callable[[bytes], None]) -> str:
    """What was raised, and where; '' where nothing was."""
    try:
        run(data)
    except Exception as error:  # noqa: BLE001 (whatever it is)
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {last.filename}:{last.lineno}"
    return ""
