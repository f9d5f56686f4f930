"""What macOS tells `tidegate doctor`, asked of its own tools; nothing anywhere else.

Sources: ``pmset(1)`` (``-g`` prints the settings in use, ``sleep`` in minutes, 0: never); kernel panics are kept as
``*.panic`` in ``/Library/Logs/DiagnosticReports``, which members of the group ``admin`` may read.
"""

from __future__ import annotations

import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PANIC_DAYS: Final = 7
_PANICS: Final = Path("/Library/Logs/DiagnosticReports")
_PANIC_BYTES: Final = 1 << 16
"""Of a report, where its first words are."""

_GPU_MEMORY: Final = re.compile(rb"IOGPU\w*Memory")
_SLEEP: Final = re.compile(r"^\s*sleep\s+(\d+)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Panics:
    """Kernel panics of the last days, and how many of them name the GPU's memory."""

    count: int
    gpu_memory: int


@dataclass(frozen=True, slots=True)
class MacFacts:
    """What a Mac tells of itself.

    Args:
        version: macOS's, e.g. ``26.4.1``; empty where it does not say.
        sleep_minutes: idle minutes after which it sleeps on its present power; 0: never; None: not told.
        panics: of late; None where this user may not see them.
    """

    version: str
    sleep_minutes: int | None
    panics: Panics | None


def read_mac() -> MacFacts:
    """This Mac."""
    return MacFacts(platform.mac_ver()[0], sleep_minutes(_run("/usr/bin/pmset", "-g")), panics())


def sleep_minutes(said: str) -> int | None:
    """Of what ``pmset -g`` printed."""
    found = _SLEEP.search(said)
    return int(found[1]) if found else None


def panics(folder: Path = _PANICS, clock: Callable[[], float] = time.time) -> Panics | None:
    """The reports of the last days.

    Args:
        folder: where they are kept.
        clock: Unix seconds.
    """
    since, count, gpu_memory = clock() - PANIC_DAYS * 86_400, 0, 0
    try:
        for report in sorted(folder.iterdir()):
            if report.suffix == ".panic" and report.stat().st_mtime >= since:
                with report.open("rb") as file:
                    gpu_memory += bool(_GPU_MEMORY.search(file.read(_PANIC_BYTES)))
                count += 1
    except OSError:
        return None
    return Panics(count, gpu_memory)


def _run(*command: str) -> str:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
