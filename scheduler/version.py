"""Which tidegate this is: said by the API and by every worker, so that hosts that differ are seen."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Final

UNKNOWN: Final = "unknown"
"""Where the code runs from a folder that nobody installed."""


@cache
def version() -> str:
    """The installed distribution's version."""
    try:
        return metadata.version("tidegate")
    except metadata.PackageNotFoundError:
        return UNKNOWN
