"""What chaos happens to: a server, APIs and workers, each restarted when it has ended, as a service manager would.

The server is Valkey with an append-only file that is flushed before a write is answered: what was acknowledged is
stored, whenever it is killed. Every other process reaches it through :mod:`benchmarks.store_proxy`, on a socket of its
own. Signals go out here, and are counted: ``kills`` are those that ended a process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psutil
import redis

from benchmarks.lone_worker import engine_pid, has_ended, python_path
from benchmarks.store_proxy import StoreProxy
from scheduler import fleet
from scheduler.settings import Settings, load
from tidegate import programs
from tidegate.embedded import answers, server_command
from tidegate.processes import Child, Processes, Program

SERVER: Final = "server"
LEASE_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 4.5
"""Longer than a lease."""

START_SECONDS: Final = 120.0
_ENDS: Final = frozenset({signal.SIGKILL, signal.SIGTERM})
_LOOK_SECONDS: Final = 0.05
_ENDING_SECONDS: Final = 10.0

SETTINGS: Final[Mapping[str, object]] = {
    "lease_seconds": LEASE_SECONDS,
    "shutdown_grace": 0.5,
    "memory_budget": 512 << 20,
    "max_batch": 8,
    "prefill_chunk": 64,
    "blas_preload": "off",  # MLX's own matrix product: the same text in every company
}


@dataclass(slots=True)
class Kept:
    """A process that is to run; ``child`` is the one that runs now, or the last one."""

    name: str
    program: Program
    child: Child | None = None
    lives: int = 0


@dataclass(slots=True)
class Stage:
    """Everything that runs.

    Args:
        settings: of the whole; each process has a server's address of its own.
        processes: starts and ends them.
        urls: of the APIs.
        headers: that their clients send.
        counts: signals and cuts by kind.
        pids: every process that ever ran.
    """

    settings: Settings
    processes: Processes
    folder: Path
    urls: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    pids: set[int] = field(default_factory=set)
    kept: dict[str, Kept] = field(default_factory=dict)
    listeners: list[socket.socket] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _ended: set[int] = field(default_factory=set)
    _stopped: set[int] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def kills(self) -> int:
        """Signals that ended a process."""
        return sum(count for what, count in self.counts.items() if what.startswith("kill "))

    @property
    def temporary(self) -> Path:
        """The processes' ``TMPDIR``."""
        return self.folder / "tmp"

    @property
    def connection(self) -> redis.Redis:
        """A client of the server, past all proxies."""
        return redis.Redis.from_url(_url(self.settings.socket_path))

    def named(self, kind: str) -> list[str]:
        """The names of the processes of a kind: ``api``, ``worker`` or ``server``."""
        return [name for name in self.kept if name.startswith(kind)]

    def keep(self, name: str, program: Program) -> None:
        """Run a program, and again whenever it has ended."""
        environment = {**program.environment, **python_path(), "TMPDIR": str(self.temporary)}
        kept = Kept(name, replace(program, name=name, environment=environment))
        with self._lock:
            self.kept[name] = kept
            self._start(kept)

    def pid(self, name: str) -> int:
        """A process's id; 0 where it does not run now."""
        child = self.kept[name].child
        return child.pid if child is not None and child.process.poll() is None else 0

    def send(self, name: str, number: int) -> bool:
        """Send a signal to a process that runs, an API's with all of its group; False where it does not.

        A worker's engine is no part of its group: it ends by itself with its worker, and does not stop with it.
        """
        with self._lock:
            pid = self.pid(name)
            if not pid:
                return False
            self.note_family(name)
            with suppress(ProcessLookupError):
                if number == signal.SIGTERM:  # it asks its own group; one that is stopped would not hear it
                    os.kill(pid, number)
                    os.killpg(pid, signal.SIGCONT)
                else:
                    os.killpg(pid, number)
            self._count(pid, number, name.rstrip("0123456789-"))
        return True

    def kill_engine(self, name: str, number: int = signal.SIGKILL) -> bool:
        """Send a signal to a worker's engine; False where it has none."""
        engine = engine_pid(self.pid(name)) if self.pid(name) else 0
        if not engine:
            return False
        self.pids.add(engine)
        with suppress(ProcessLookupError):
            os.kill(engine, number)
        self._count(engine, number, "engine")
        if number == signal.SIGSTOP:
            self._stopped.add(engine)
        return True

    def wake_engines(self) -> None:
        """Let every engine that was stopped go on, its worker's or one that outlived its worker so."""
        while self._stopped:
            with suppress(ProcessLookupError):
                os.kill(self._stopped.pop(), signal.SIGCONT)

    def note_family(self, name: str) -> set[int]:
        """Remember the processes that a process has started, so that the audit looks for them; it and those."""
        family = {pid} if (pid := self.pid(name)) else set[int]()
        with suppress(psutil.Error):
            family |= {each.pid for each in psutil.Process(pid).children(recursive=True)} if pid else set()
        self.pids |= family
        return family

    def watch(self) -> None:
        """Start again whatever has ended, until it is over; in a thread of its own."""
        while not self._over.wait(_LOOK_SECONDS):
            for kept in list(self.kept.values()):
                with self._lock:
                    if kept.child is not None and not kept.child.alive and not self._over.is_set():
                        self._note_end(kept.child)
                        self.processes.bury(kept.child)
                        self._start(kept)

    def end(self, kind: str = "") -> None:
        """Ask every process of a kind but the server to end, and wait until it has; nothing is started again."""
        self._over.set()
        with self._lock:
            children, family = list[Child](), set[int]()
            for kept in self.kept.values():
                if kept.name != SERVER and kept.name.startswith(kind) and kept.child is not None:
                    family |= self.note_family(kept.name)
                    children.append(kept.child)
                    kept.child = None
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGCONT)
                os.kill(child.pid, signal.SIGTERM)
        for child in children:
            self.processes.bury(child)
        until = time.monotonic() + _ENDING_SECONDS  # an engine ends by itself, when its worker's pipe ends
        while time.monotonic() < until and not all(map(has_ended, family)):
            time.sleep(_LOOK_SECONDS)

    def _note_end(self, child: Child) -> None:
        """A process that ended though nobody ended it is no fault of the queue's, and yet to be looked at."""
        if child.pid not in self._ended:
            self.counts[f"ended by itself {child.program.name.rstrip('0123456789-')}"] += 1
            print(child.obituary(), file=sys.stderr)

    def _start(self, kept: Kept) -> None:
        kept.child = self.processes.start(kept.program)
        kept.lives += 1
        self.pids.add(kept.child.pid)

    def _count(self, pid: int, number: int, kind: str) -> None:
        """A process ends once, however many signals it is sent."""
        if number in _ENDS and pid not in self._ended:
            self._ended.add(pid)
            self.counts[f"kill {kind} by {signal.Signals(number).name}"] += 1
        elif number == signal.SIGSTOP:
            self.counts[f"stop {kind}"] += 1


@contextmanager
def staged(
    folder: Path, models: Mapping[str, Path], apis: int, workers: int
) -> Iterator[tuple[Stage, StoreProxy]]:
    """Start everything, wait until it is ready, and end everything.

    Args:
        folder: for its data; its name is short, as a socket's address must be.
        models: the served names and their folders.
        apis: how many.
        workers: how many.
    """
    served = tuple(f"{name}={path}" for name, path in models.items())
    settings = load(data_dir=folder / "data", models=served, **SETTINGS)
    for each in (settings.data_dir / "valkey", folder / "tmp"):
        each.mkdir(parents=True)
    lend_compiled(folder / "tmp")
    with Processes(folder / "logs") as processes:
        stage = Stage(settings, processes, folder)
        command = server_command("../valkey.sock", flush="always")
        stage.keep(SERVER, Program("valkey", command, settings.data_dir / "valkey"))
        processes.wait_until(lambda: answers(settings.socket_path), "the server", START_SECONDS)
        proxy = StoreProxy(settings.socket_path, stage.send, PAUSE_SECONDS)
        watching = threading.Thread(target=stage.watch, daemon=True)
        try:
            _keep_all(stage, proxy, apis, workers)
            with stage.connection as connection:
                processes.wait_until(lambda: loaded(connection) == workers, "the workers", START_SECONDS)
            watching.start()
            yield stage, proxy
        finally:
            stage.end()
            if watching.is_alive():
                watching.join()
            proxy.close()
            for listener in stage.listeners:
                listener.close()


def common_environment() -> dict[str, str]:
    """The variables of every API and worker."""
    settings = {f"TIDEGATE_{key.upper()}": str(value) for key, value in SETTINGS.items()}
    return settings | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _keep_all(stage: Stage, proxy: StoreProxy, apis: int, workers: int) -> None:
    for name in [*(f"worker-{n}" for n in range(workers)), *(f"api-{n}" for n in range(apis))]:
        path = stage.folder / f"{name}.sock"
        proxy.open(name, path)
        own = stage.settings.model_copy(update={"redis_url": _url(path)})
        if name.startswith("api"):
            listener = programs.listen("127.0.0.1", 0)
            stage.listeners.append(listener)
            stage.urls.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
            program = programs.api(own, listener)
        else:
            program = programs.worker(own)
        more: dict[str, Any] = {
            **program.environment,
            **common_environment(),
            "TIDEGATE_REDIS_URL": _url(path),
        }
        stage.keep(name, replace(program, environment=more))


def lend_compiled(temporary: Path) -> None:
    """What MLX has compiled on this machine before: compiling it anew takes longer than a storm's start."""
    compiled = Path(tempfile.gettempdir()) / "mlx"
    compiled.mkdir(exist_ok=True)
    (temporary / compiled.name).symlink_to(compiled)


def loaded(connection: redis.Redis) -> int:
    """How many workers are ready, their model measured."""
    return sum(bool(report.cards) and report.engine == "ready" for report in fleet.live_workers(connection))


def _url(path: Path) -> str:
    return f"unix://{quote(str(path))}"
