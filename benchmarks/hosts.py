"""Cut the links between hosts, and see that nothing is lost: ``python -m benchmarks.hosts``.

The server, the API and two workers with engines are on hosts of their own (:mod:`benchmarks.lan`), and the clients on one
more. A storm drawn from a seed cuts links between any two of them, one or several at a time, in silence: nothing that
is sent arrives, for a moment or for longer than a worker's lease, so that its jobs are taken by the other one and it
comes back to find them gone. Then every link is healed, everything ends by itself, and the audit of ``benchmarks.chaos``
compares each stream and result with the same job's where nothing happens.

Prints one JSON line last, with ``accepted``, ``lost``, ``doubled``, ``changed`` and ``leaked`` as the audit has them, and

``cuts``     links that were cut and healed
``leases``   jobs that a worker lost to another because its lease had lapsed

All but ``accepted``, ``cuts`` and ``leases`` must be 0, and the exit status is 1 where they are not. Linux's alone.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from benchmarks.arguments import asked_storms
from benchmarks.audit import figures, tell
from benchmarks.audit_store import read_stored
from benchmarks.chaos import MODEL, audited, keep_folder, left_behind, live_through, make_errands
from benchmarks.chaos_stage import (
    LEASE_SECONDS,
    SERVER,
    SETTINGS,
    START_SECONDS,
    Stage,
    common_environment,
    lend_compiled,
    loaded,
)
from benchmarks.findings import Column
from benchmarks.lan import OBSERVER, Lan, inside_command
from benchmarks.random_models import write_random_llama
from scheduler.events import Kind
from scheduler.keyring import KeyBook
from scheduler.keys import new_key
from scheduler.reasons import Reason
from scheduler.settings import load
from tidegate import programs
from tidegate.client import Client
from tidegate.embedded import answers, server_command
from tidegate.processes import Processes, Program

SECONDS: Final = 40.0
CLIENTS: Final = 8
SEED: Final = 7
API: Final = "api"
WORKERS: Final = ("worker-0", "worker-1")
_INSIDE: Final = "TIDEGATE_HOSTS_INSIDE"
_PORT: Final = 6379
_API_PORT: Final = 8000

_TALKING: Final = [(SERVER, API), *((SERVER, each) for each in WORKERS), (API, OBSERVER)]
"""Hosts that speak with each other; the other pairs are cut as well, now and then."""

_LENGTHS: Final = (0.2, 1.0, LEASE_SECONDS, 2 * LEASE_SECONDS)
"""Seconds for which a link is cut."""


def main() -> None:
    """Measure and print."""
    asked = asked_storms("hosts", __doc__, SEED, SECONDS)
    if not os.environ.get(_INSIDE):
        os.environ[_INSIDE] = "yes"
        sys.exit(subprocess.call(inside_command(sys.executable, "-m", "benchmarks.hosts", *sys.argv[1:])))
    lan, total = Lan([SERVER, API, *WORKERS]), Counter[str]()
    for seed in range(asked.seed, asked.seed + asked.rounds):
        told = one_round(lan, seed, asked.seconds, asked.keep)
        total.update(told)
        print(f"seed {seed}: {json.dumps(told)}", file=sys.stderr)
    print(json.dumps(dict(total)))
    sys.exit(any(total[column.value] for column in Column) or not total["cuts"])


def one_round(lan: Lan, seed: int, seconds: float, keep: Path | None) -> dict[str, int]:
    """A storm and its audit: the line's figures.

    Args:
        lan: the hosts; every link whole.
        seed: what is drawn from.
        seconds: how long the storm lasts.
        keep: where data and logs go where there are findings.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        folder = Path(name)
        model = write_random_llama(folder / "model", heads=4, kv_heads=4, max_position=2048)
        with staged(lan, folder, model) as stage:
            storm = Cuts(lan, draw)
            witness = live_through(stage, storm, make_errands(stage), draw, seconds, 0, CLIENTS)
            with stage.connection as connection:
                stored = read_stored(connection, [each.job_id for each in witness.accepted])
            leases = sum(
                event.kind is Kind.REQUEUED and event.data.get("reason") == Reason.WORKER_LOST.value
                for each in stored.values()
                for event in each.events
            )
            found = audited(stage, witness)
        found += left_behind(stage)
        tell(found)
        if found and keep is not None:
            keep_folder(folder, keep / str(seed))
    return figures(witness.accepted, found) | {"cuts": storm.cuts, "leases": leases}


@dataclass(slots=True)
class Cuts:
    """A storm on the links.

    Args:
        lan: the hosts.
        draw: its chance.
    """

    lan: Lan
    draw: random.Random
    cuts: int = 0
    _heals_at: dict[tuple[str, str], float] = field(default_factory=dict)

    def rage(self, seconds: float, _: int = 0) -> None:
        """Cut and heal, for so many seconds."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            for pair in self._drawn():
                if pair not in self._heals_at:
                    self.lan.cut(*pair)
                    self._heals_at[pair] = time.monotonic() + self.draw.choice(_LENGTHS)
                    self.cuts += 1
            time.sleep(self.draw.uniform(0.2, 1.5))
            self._heal(time.monotonic())

    def calm(self) -> None:
        """Heal every link."""
        self._heal(float("inf"))

    def _drawn(self) -> list[tuple[str, str]]:
        """Links that go at once: one, or all of a host."""
        pairs = list(itertools.combinations(self.lan.hosts, 2))
        if self.draw.random() < 0.2:  # a host is off the network
            host = self.draw.choice(self.lan.hosts)
            return [pair for pair in pairs if host in pair]
        talking = [pair for pair in pairs if {*pair} in [{*each} for each in _TALKING]]
        return [self.draw.choice(talking if self.draw.random() < 0.8 else pairs)]

    def _heal(self, now: float) -> None:
        for pair in [pair for pair, at in self._heals_at.items() if at <= now]:
            self.lan.heal(*pair)
            del self._heals_at[pair]


@contextmanager
def staged(lan: Lan, folder: Path, model: Path) -> Iterator[Stage]:
    """Start everything, each on its host, wait until it is ready, and end everything.

    The API wants a key, as it must where other hosts reach it. The server wants no password: nobody else is there.

    Args:
        lan: the hosts.
        folder: for its data; its name is short, as a socket's address must be.
        model: the served one.
    """
    settings = load(data_dir=folder / "data", models=(f"{MODEL}={model}",), **SETTINGS)
    for each in (settings.data_dir / "valkey", folder / "tmp"):
        each.mkdir(parents=True)
    lend_compiled(folder / "tmp")
    with Processes(folder / "logs") as processes:
        stage = Stage(settings, processes, folder, [f"http://{lan.address(API)}:{_API_PORT}"])
        network = ("--port", str(_PORT), "--bind", lan.address(SERVER), "--protected-mode", "no")
        command = lan.command(SERVER, (*server_command("../valkey.sock", flush="always"), *network))
        stage.keep(SERVER, Program("valkey", command, settings.data_dir / "valkey"))
        processes.wait_until(lambda: answers(settings.socket_path), "the server", START_SECONDS)
        watching = threading.Thread(target=stage.watch, daemon=True)
        try:
            with stage.connection as connection:
                token, key = new_key(time.time())
                KeyBook(connection).add(key)
                stage.headers["Authorization"] = f"Bearer {token}"
                _keep_all(lan, stage)
                processes.wait_until(lambda: loaded(connection) == len(WORKERS), "the workers", START_SECONDS)
            with Client(stage.urls[0]) as client:
                processes.wait_until(client.ready, "the API", START_SECONDS)
            watching.start()
            yield stage
        finally:
            stage.end()
            if watching.is_alive():
                watching.join()


def _keep_all(lan: Lan, stage: Stage) -> None:
    address = f"redis://{lan.address(SERVER)}:{_PORT}"
    own = stage.settings.model_copy(update={"redis_url": address})
    api = Program(
        "api",
        programs.api_command(f"{lan.address(API)}:{_API_PORT}"),
        own.data_dir,
        programs.environment(own),
    )
    for host, program in [*((name, programs.worker(own)) for name in WORKERS), (API, api)]:
        more = {**program.environment, **common_environment(), "TIDEGATE_REDIS_URL": address}
        stage.keep(host, replace(program, command=lan.command(host, program.command), environment=more))


if __name__ == "__main__":
    main()
