"""The audit's rules about a host: files and processes that what ran there must have taken with it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.findings import Column, Finding

SHARED_MEMORY: Final = Path("/dev/shm")

_TEMPORARY: Final = re.compile(r".*\.(tmp|temp|partial|part)|temp-.*|tmp.*|\.~.*")
"""How files are called that are written to be renamed or removed; ``temp-rewriteaof-12.aof`` is the server's."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What to look for on a host.

    Args:
        folder: everything that ran there had it in its command line, or as its working folder or a folder around it.
        temporary: what the processes had as their ``TMPDIR``; None: not looked at.
        pids: processes that were started, by their ids.
        allowed: processes that may live still, such as the server's.
        caches: what may stay in TMPDIR; MLX keeps there what it compiled for CPUs, for whoever comes next.
    """

    folder: Path
    temporary: Path | None = None
    pids: Collection[int] = ()
    allowed: Collection[int] = ()
    caches: Collection[str] = ("mlx",)


def host_findings(traces: Traces) -> list[Finding]:
    """What is left on a host."""
    return [
        Finding(Column.LEAKED, subject, words)
        for rule in (processes_alive, temporary_files, shared_memory)
        for subject, words in rule(traces)
    ]


def processes_alive(traces: Traces) -> Iterator[tuple[str, str]]:
    """A process that was started, or was started by one that was, and runs."""
    folder = str(traces.folder.resolve())
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents()), *traces.allowed}
    for process in psutil.process_iter():
        if process.pid not in mine and (process.pid in traces.pids or _lives_in(process, folder)):
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield f"process {process.pid}", f"it is alive: {' '.join(process.cmdline())[:200]}"


def temporary_files(traces: Traces) -> Iterator[tuple[str, str]]:
    """Anything in the processes' ``TMPDIR``; in the folder, files whose names say that they are temporary."""
    if traces.temporary is not None:
        for path in sorted(traces.temporary.iterdir()):
            if path.name not in traces.caches:
                yield str(path), "it was left in TMPDIR"
    for path in sorted(traces.folder.rglob("*")):
        if path.is_file() and _TEMPORARY.fullmatch(path.name):
            yield str(path), "a temporary file was left"


def shared_memory(traces: Traces) -> Iterator[tuple[str, str]]:
    """Segments of shared memory that are named after a process that was started."""
    for path in sorted(SHARED_MEMORY.iterdir()) if SHARED_MEMORY.is_dir() else ():
        numbers = {int(number) for number in re.findall(r"\d+", path.name)}
        if owners := numbers & {*traces.pids}:
            yield str(path), f"shared memory of process {min(owners)} was left"


def _lives_in(process: psutil.Process, folder: str) -> bool:
    try:
        return any(folder in word for word in [*process.cmdline(), process.cwd()])
    except psutil.Error:
        return False
