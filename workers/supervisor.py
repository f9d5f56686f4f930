"""The engine's process: started, spoken with, watched, replaced.

MLX must never be used after fork(), so the engine is a fresh interpreter. Its death is data: the exit
code, the tail of its stderr and the account it last gave go to the classifier.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import structlog

from scheduler.blame import Fault
from scheduler.settings import Settings
from workers.account import Account
from workers.classifier import classify_death, exit_name
from workers.environment import engine_environment
from workers.guard import FRUGAL_SECONDS
from workers.last_words import LastWords
from workers.overhearing import overhearing
from workers.said import Course, read_said
from workers.unsaid import loggable
from workers.wire import Message, Outbox, Receiver, WireBroken

log = structlog.get_logger(__name__)

_EXIT_SECONDS: Final = 5.0

LOAD_SECONDS: Final = 3600.0
"""An engine silent for so long while it loads, which may mean to download, is replaced."""

START_SECONDS: Final = 60.0
"""So long an engine may take to import MLX, however short the progress deadline."""


@dataclass(frozen=True, slots=True)
class Death:
    """How an engine ended: a fault, and what was seen."""

    fault: Fault
    exit_code: int
    detail: str
    """For the log alone: how it exited, the account that it kept, and its last line."""


@dataclass(slots=True)
class Supervisor:
    """One engine process after another.

    Args:
        settings: the worker's.
        clock: monotonic seconds.
    """

    settings: Settings
    clock: Callable[[], float] = time.monotonic
    account: Account = field(default_factory=Account)
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _outbox: Outbox | None = None
    _receiver: Receiver | None = None
    _words: LastWords | None = None
    _heard_at: float = 0.0
    _course: Course = field(default_factory=Course)
    _timed_out: bool = False
    _meant: bool = False
    _ran_out_at: float = -math.inf

    @property
    def running(self) -> bool:
        """Whether there is an engine to speak with."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The engine's process id; 0 where there is none."""
        return self._process.pid if self._process else 0

    def fileno(self) -> int:
        """Readable when the engine said something, or died."""
        return self._receiver.fileno() if self._receiver else -1

    def start(self) -> None:
        """Start an engine and tell it what it may use."""
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        self._timed_out = self._meant = False
        self._process = self._spawn(to_read, from_write)
        os.close(to_read)
        os.close(from_write)
        self._outbox, self._receiver = Outbox(to_write), Receiver(from_read, read_said)
        assert self._process.stderr is not None
        self._words = LastWords(self._process.stderr)
        self.account, self._course = Account(), Course()
        self.starts += 1
        self._heard_at = self.clock()
        log.info("engine started", pid=self._process.pid)
        self.send(
            {
                "kind": "configure",
                "memory_budget": self.settings.memory_budget,
                "cache_limit": self.settings.cache_limit,
                "prefix_cache": self.settings.prefix_cache,
                "chunk_tokens": self.settings.prefill_chunk,
                "prefill_rows": self.settings.prefill_rows,
                "max_batch": self.settings.max_batch,
                "frugal_seconds": max(0.0, FRUGAL_SECONDS - (self.clock() - self._ran_out_at)),
                "gap_seconds": self.settings.token_gap,
                "cards_folder": str(self.settings.data_dir / "cards"),
            }
        )

    def _spawn(self, read_fd: int, write_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "workers.engine", str(read_fd), str(write_fd)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(read_fd, write_fd),
            env=engine_environment(dict(os.environ), preload=self.settings.blas_preload == "auto"),
            start_new_session=True,
        )

    def send(self, message: Message) -> None:
        """Tell the engine; a dead one is noticed by :meth:`receive`."""
        if self._outbox is None:
            return
        self._course.tell(message)
        try:
            self._outbox.send(message)
        except WireBroken:
            log.info("engine does not listen", pid=self.pid)

    @property
    def waits_to_send(self) -> bool:
        """Whether the engine has yet to read what it was told."""
        return self._outbox is not None and self._outbox.full

    def send_fileno(self) -> int:
        """Writable when the engine takes more."""
        return self._outbox.fileno() if self._outbox else -1

    def flush(self) -> None:
        """Send what waits."""
        if self._outbox is not None:
            try:
                self._outbox.flush()
            except WireBroken:
                log.info("engine does not listen", pid=self.pid)

    def receive(self) -> list[Message]:
        """What the engine said; waits where it said nothing.

        Raises:
            WireBroken: it died, or speaks nonsense; :meth:`bury` says how.
        """
        if self._receiver is None:
            raise WireBroken("there is no engine")
        messages = self._noted(self._receiver.read())
        if messages:  # parts of one that never ends are silence
            self._heard_at = self.clock()
        self._read_words()
        return messages

    def overhearing(self) -> AbstractContextManager[None]:
        """While the block runs, what the engine says is kept for :meth:`kept`, so that it need not wait to say it."""
        return overhearing(self._receiver) if self._receiver else nullcontext()

    def kept(self) -> list[Message]:
        """What the engine said meanwhile.

        Raises:
            WireBroken: it spoke nonsense.
        """
        return self._noted(self._receiver.whole() if self._receiver else [])

    def _noted(self, messages: list[Message]) -> list[Message]:
        """Messages that are of their kind's form and in their place; each is put into the account.

        Raises:
            WireBroken: one is not.
        """
        for message in messages:
            self._course.hear(message)
            self.account.note(message)
        return messages

    def watch(self, *, busy: bool, loading: bool, ready: bool) -> None:
        """End an engine that was silent for longer than what it has to do can take.

        Args:
            busy: whether it has jobs.
            loading: whether it was told to load a model, which may stand behind a step that hangs.
            ready: whether it has said what memory there is.
        """
        self._read_words()
        if busy or loading or not ready:
            begun = loading and (self.account.loading or not busy)
            patience = LOAD_SECONDS if begun else self.settings.progress_timeout
            self.kill_if_silent(patience if ready else max(patience, START_SECONDS))

    def kill_if_silent(self, seconds: float) -> bool:
        """End an engine that was silent for so long."""
        if self._process is None or self.clock() - self._heard_at < seconds:
            return False
        self._timed_out = True
        self.kill()
        return True

    def heard(self) -> None:
        """Count the engine's silence from now: it had nothing to do until now."""
        self._heard_at = self.clock()

    def kill(self) -> None:
        """End the engine at once; its death is noticed by :meth:`receive`, and is nobody's fault."""
        if self._process is not None:
            self._meant = True
            self._process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """End the engine by closing its pipe, or else by force."""
        if self._process is not None:
            self._close()
            try:
                self._process.wait(_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._end_words()
            self._process = None

    def bury(self) -> Death:
        """Take leave of a dead engine, or one that speaks nonsense, and say what it died of."""
        assert self._process is not None
        self._close()
        ended_by_us = False
        try:
            exit_code = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            ended_by_us = True
            self._process.kill()
            exit_code = self._process.wait()
        lines = self._end_words()
        account = self.account
        fault = classify_death(
            exit_code,
            "\n".join(lines),
            account.most_bytes,
            account.budget_bytes,
            cpu=account.cpu,
            limited=_limited(),
        )
        if self._timed_out:
            fault = Fault.GPU_TIMEOUT
        elif self._meant:
            fault = Fault.VICTIM
        elif ended_by_us:  # that signal is not the system's killer's
            fault = Fault.BUG
        if fault is Fault.OUT_OF_MEMORY:
            self._ran_out_at = self.clock()
        last = f": {loggable(lines[-1])}" if lines else ""
        detail = f"{exit_name(exit_code)} ({account.words}){last}"
        log.warning(
            "engine died", pid=self._process.pid, exit_code=exit_code, fault=fault.value, detail=detail
        )
        self._process = None
        return Death(fault, exit_code, detail)

    def _read_words(self) -> None:
        if self._words is not None:
            self._words.read()

    def _end_words(self) -> list[str]:
        words, self._words = self._words, None
        if words is None:
            return []
        words.close()
        return words.lines

    def _close(self) -> None:
        if self._outbox is not None:
            self._outbox.close()
        if self._receiver is not None:
            self._receiver.close()
        self._outbox = self._receiver = None


def _limited() -> bool:
    """Whether this process's address space, and so its children's, is limited."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
