"""What processes take while something runs: memory, descriptors, threads, looked at again and again from a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from benchmarks.lone_worker import engine_pid

Found = Mapping[str, Callable[[], psutil.Process | None]]


@dataclass(frozen=True, slots=True)
class Look:
    """One process at one moment: seconds since the start; bytes resident, and bytes of it that are its own alone."""

    at_seconds: float
    pid: int
    resident_bytes: int
    own_bytes: int
    descriptors: int
    threads: int


class Footprints:
    """Looks at processes until the block ends.

    Args:
        found: by name, how a process is found at each look: it may be another by then, or None for a while.
        every_seconds: how often.
    """

    def __init__(self, found: Found, every_seconds: float = 0.5) -> None:
        self._found, self._every = found, every_seconds
        self._started = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks: dict[str, list[Look]] = {name: [] for name in found}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def peak_bytes(self, name: str) -> int:
        """The most that a process had resident; 0 where it was never seen."""
        return max((look.resident_bytes for look in self.looks[name]), default=0)

    def _run(self) -> None:
        while not self._done.wait(self._every):
            for name, find in self._found.items():
                with suppress(psutil.Error):
                    process = find()
                    if process is not None:
                        self.looks[name].append(self._look(process))

    def _look(self, process: psutil.Process) -> Look:
        memory = process.memory_full_info()
        now = time.monotonic() - self._started
        return Look(now, process.pid, memory.rss, memory.uss, process.num_fds(), process.num_threads())


def engine_of(worker_pid: int) -> psutil.Process | None:
    """A worker's engine; None while it is replaced."""
    pid = engine_pid(worker_pid)
    return psutil.Process(pid) if pid else None
