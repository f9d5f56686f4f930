"""A server and one real worker after another, without the API: what a machine needs that only generates."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil
import redis

from scheduler import fleet
from scheduler.fleet import WorkerReport
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings, load
from tidegate import programs
from tidegate.embedded import start_embedded_server
from tidegate.processes import Child, Processes

ROOT: Final = Path(__file__).parents[1]
START_SECONDS: Final = 240.0
"""For an engine that imports MLX, loads and measures a model; CUDA compiles kernels meanwhile."""


def python_path() -> dict[str, str]:
    """The variable by which a child finds this repository's modules before everything that was set."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


def engine_pid(worker_pid: int) -> int:
    """The process of a worker's engine; 0 where there is none now, or no such worker."""
    try:
        children = psutil.Process(worker_pid).children()
        return next((child.pid for child in children if "workers.engine" in child.cmdline()), 0)
    except psutil.Error:
        return 0


def has_ended(pid: int) -> bool:
    """Whether a process is no more, its parent told or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True, slots=True)
class LoneWorker:
    """A worker, alone on its server."""

    child: Child
    connection: redis.Redis

    @property
    def report(self) -> WorkerReport | None:
        """What it last said of itself; None before it did."""
        return next(iter(fleet.live_workers(self.connection)), None)

    @property
    def ready(self) -> bool:
        """Whether it can claim, its model measured."""
        report = self.report
        return report is not None and report.engine == "ready" and bool(report.cards)

    @property
    def counters(self) -> Counter[str]:
        """What it has counted, as it last said."""
        report = self.report
        return Counter(report.counters if report is not None else {})

    @property
    def engine_pid(self) -> int:
        """Its engine's process; 0 where there is none now."""
        return engine_pid(self.child.pid)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        assert self.child.log is not None
        return self.child.log.read_text(errors="replace")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder and a server for workers that serve one model."""

    settings: Settings
    connection: redis.Redis
    lifecycle: Lifecycle

    @contextmanager
    def worker(self, name: str, *, prefix: Sequence[str] = (), **settings: object) -> Iterator[LoneWorker]:
        """Start a worker, wait until its model is loaded, and end it afterwards.

        Args:
            name: of its folder of logs.
            prefix: a command that starts it.
            settings: what differs from the place's, by field.
        """
        own = {f"TIDEGATE_{key.upper()}": str(value) for key, value in settings.items()}
        program = programs.worker(self.settings)
        program = replace(
            program,
            command=(*prefix, *program.command),
            environment={**program.environment, **own, **python_path(), "HF_HUB_OFFLINE": "1"},
        )
        with Processes(self.settings.data_dir / "logs" / name) as processes:
            worker = LoneWorker(processes.start(program), self.connection)
            processes.wait_until(lambda: worker.ready, f"the worker {name}", START_SECONDS)
            yield worker
        while worker.report is not None:  # one that was killed is taken for alive until its lease lapses
            time.sleep(0.1)


@contextmanager
def place(folder: Path, model: str, source: Path, **settings: object) -> Iterator[Place]:
    """Start a server in a folder, and end it afterwards.

    Args:
        folder: for its data; its name is short, as a socket's address must be.
        model: the served name.
        source: the model's folder.
        settings: what differs from the defaults, by field.
    """
    chosen = load(data_dir=folder, models=(f"{model}={source}",), **settings)
    with Processes(folder / "logs") as processes:
        start_embedded_server(chosen, processes)
        with redis.Redis.from_url(chosen.server_url) as connection:
            yield Place(chosen, connection, Lifecycle(connection, chosen))
