"""The processes that `tidegate up` starts: each in a group of its own, all gone when the block ends.

They are stopped in the reverse of the order they were started in, each by SIGTERM to its leader, then,
after its grace or on a second Ctrl-C, by SIGKILL to its group. If tidegate itself is killed, the warden
does it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from tidegate.failures import ProcessFailed
from tidegate.groups import POLL_SECONDS, ask_leader, kill_group, wait_while
from tidegate.interruption import Interruption

LOGS_KEPT: Final = 3  # of earlier runs, beside the present one
TAIL_BYTES: Final = 8192
TAIL_LINES: Final = 15


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and how it is asked to stop. ``environment`` is added to this process's own."""

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    grace_seconds: float = 10.0
    stop_signal: int = signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Child:
    """A program that runs, or ran; ``log`` is None where it writes to this process's terminal."""

    program: Program
    process: subprocess.Popen[bytes]
    log: Path | None

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs; reaps it if not."""
        return self.process.poll() is None

    def obituary(self) -> str:
        """How it ended and what it last said."""
        status = self.process.returncode
        killed = status is not None and status < 0
        end = f"was killed by signal {-status}" if killed else f"exited with {status}"
        said = f"; the end of {self.log}:\n{tail(self.log)}" if self.log else ""
        return f"{self.program.name} {end}{said}"


class Processes:
    """Starts programs; on leaving the block stops them all.

    Args:
        logs: the folder for ``NAME.log``; a program's log of an earlier run becomes ``NAME.log.1``.
        interruption: the signals to hold while a process is started or stopped.
    """

    def __init__(self, logs: Path, interruption: Interruption | None = None) -> None:
        self._logs = logs
        self._interruption = interruption or Interruption()
        self._children: list[Child] = []
        self._warden: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._interruption.held():
            while self._children:
                self._stop(self._children.pop())
            if self._warden is not None:
                self._warden.communicate()
                self._warden = None

    def start(self, program: Program) -> Child:
        """Start a program, its output in its log.

        Raises:
            ProcessFailed: it cannot be run at all.
        """
        log = rotated(self._logs / f"{program.name}.log")
        with log.open("wb") as output:
            return self._spawn(program, output, log)

    def run(self, program: Program) -> None:
        """Run a program to its end: its messages on this process's standard error, its results to nobody.

        Raises:
            ProcessFailed: it cannot be run, or fails.
        """
        child = self._spawn(program, subprocess.DEVNULL, None)
        while child.alive:
            time.sleep(POLL_SECONDS)
        self.bury(child)
        if child.process.returncode != 0:
            raise ProcessFailed(child.obituary())

    def _spawn(self, program: Program, output: IO[bytes] | int, log: Path | None) -> Child:
        with self._interruption.held():
            try:
                process = subprocess.Popen(
                    program.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT if log else sys.stderr,
                    cwd=program.folder,
                    env=os.environ | dict(program.environment),
                    pass_fds=program.pass_fds,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessFailed(f"{program.name} cannot be started: {error}") from error
            child = Child(program, process, log)
            self._children.append(child)
            self._tell_warden(f"+{child.pid}")
        return child

    def bury(self, child: Child) -> None:
        """End a program, if it has not ended, and what is left of its group; it is looked after no more."""
        with self._interruption.held():
            self._children.remove(child)
            self._stop(child)

    def check(self) -> None:
        """Notice a death.

        Raises:
            ProcessFailed: a program ended; its obituary.
        """
        for child in self._children:
            if not child.alive:
                raise ProcessFailed(child.obituary())

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Poll until ``ready``, which may take its time, noticing deaths meanwhile.

        Raises:
            ProcessFailed: a program ended, or ``seconds`` went by; ``what`` says what was waited for.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            if ready():
                return
            if time.monotonic() >= deadline:
                logs = ", ".join(str(child.log) for child in self._children if child.log)
                raise ProcessFailed(f"waited {seconds:.0f} s for {what}; see {logs}")
            time.sleep(POLL_SECONDS)

    def stay(self) -> None:
        """Block until a program ends.

        Raises:
            ProcessFailed: one did.
        """
        while True:
            self.check()
            time.sleep(0.25)

    def _stop(self, child: Child) -> None:
        if child.alive:
            ask_leader(child.pid, child.program.stop_signal)
            wait_while(lambda: child.alive and not self._interruption.hurried, child.program.grace_seconds)
        kill_group(child.pid)
        child.process.wait()
        self._tell_warden(f"-{child.pid}")

    def _tell_warden(self, line: str) -> None:
        if self._warden is None:
            self._warden = subprocess.Popen(
                [sys.executable, "-m", "tidegate.warden"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        assert self._warden.stdin is not None
        with suppress(BrokenPipeError):  # it was killed; the children are stopped here
            print(line, file=self._warden.stdin, flush=True)


def rotated(log: Path) -> Path:
    """Move ``log`` to ``log.1`` and older ones on by one, so that ``log`` is free; make its folder, and the data folder that this lies in."""
    for each in (log.parent.parent, log.parent):  # the mode is not for parents
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    for age in range(LOGS_KEPT, 0, -1):
        older = log.with_name(f"{log.name}.{age - 1}") if age > 1 else log
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{age}"))
    return log


def tail(log: Path) -> str:
    """The last lines of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:]) or "  (empty)"
