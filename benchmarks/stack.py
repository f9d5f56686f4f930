"""A whole tidegate on this machine's loopback, in a folder of its own: server, API, workers."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import redis

from scheduler import fleet
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings, load
from tidegate import programs
from tidegate.client import Client
from tidegate.embedded import start_embedded_server
from tidegate.processes import Child, Processes

START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs."""

    settings: Settings
    url: str
    connection: redis.Redis
    lifecycle: Lifecycle
    api: Child
    workers: tuple[Child, ...]


@contextmanager
def stack(
    models: dict[str, Path],
    *,
    workers: int = 1,
    worker_prefix: Sequence[str] = (),
    start_seconds: float = START_SECONDS,
    **settings: object,
) -> Iterator[Stack]:
    """Start everything, wait until every worker has a model loaded, and end everything afterwards.

    Args:
        models: the served names and their folders; the first is loaded at the start.
        workers: how many; several get an even part of half the RAM each, unless a budget is among the settings.
        worker_prefix: a command that starts each worker, such as one that limits it.
        start_seconds: that the API, and then the workers, may take until they are ready.
        settings: what differs from the defaults, by field.
    """
    if workers > 1:
        settings.setdefault("memory_budget", psutil.virtual_memory().total // 2 // workers)
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        served = tuple(f"{name}={path}" for name, path in models.items())
        chosen = load(data_dir=Path(folder), models=served, **settings)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # this code, whatever else is installed
        os.environ.update({f"TIDEGATE_{name.upper()}": str(value) for name, value in settings.items()})
        with Processes(Path(folder) / "logs") as processes:
            start_embedded_server(chosen, processes)
            listener = programs.listen("127.0.0.1", 0)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            api = processes.start(programs.api(chosen, listener))
            program = programs.worker(chosen)
            program = replace(program, command=(*worker_prefix, *program.command))
            children = tuple(processes.start(program) for _ in range(workers))
            connection = redis.Redis.from_url(chosen.server_url)
            with Client(url) as client:
                processes.wait_until(client.ready, "the API", start_seconds)
            processes.wait_until(lambda: _loaded(connection) == workers, "the workers", start_seconds)
            yield Stack(chosen, url, connection, Lifecycle(connection, chosen), api, children)
            connection.close()


def wait_until(done: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Look again and again until something is so.

    Raises:
        TimeoutError: it never was.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {seconds:g} s")
        time.sleep(0.005)


def _loaded(connection: redis.Redis) -> int:
    return sum(bool(report.cards) for report in fleet.live_workers(connection))
