"""Whether anything grows while everything is done, again and again: ``python -m benchmarks.soak``.

A whole stack, as users start it, with a small model of random weights, an API key, and ended jobs that are kept for a
minute. Clients (:mod:`benchmarks.soak_clients`) submit, wait, stream, cut streams, cancel, fail, repeat, delete, add and
remove keys, send webhooks and run batches, one thing after another, drawn by a seed; the engine is killed now and then.
Meanwhile the memory, descriptors and threads of the API, the worker, its engine and the queue's server are looked at,
and the server's keys counted. ``--minutes`` of hours or days is what it is for; a few minutes are the default.

To what comes after the warm-up a line is fitted (:mod:`benchmarks.slopes`), a level for each process, as the engine's
are replaced. Prints one JSON line last:

``jobs``           that clients made, and what they did by name (``done``); what went wrong by name (``faults``)
``engine_deaths``  kills of the engine
``bytes``          by process, resident bytes of its own (USS): their mean, growth an hour, the half-width of that
                   growth's 95 % interval, and whether it is ``flat``: the interval reaches down to 0. Of the server it
                   is what its data takes
``keys``           the server's, likewise
``descriptors``, ``threads``  likewise
``flat``           whether all are
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.arguments import count, parser, positive
from benchmarks.footprints import Footprints, Look, engine_of
from benchmarks.pages import DOCS
from benchmarks.random_models import write_random_llama
from benchmarks.slopes import Slope, fit
from benchmarks.soak_clients import MODEL, Clients, receiver
from benchmarks.stack import Stack, stack
from scheduler.keyring import KeyBook
from scheduler.keys import new_key

MINUTES: Final = 5.0
CLIENTS: Final = 6
KILL_SECONDS: Final = 60.0
RESULT_SECONDS: Final = 60

_SETTINGS: Final[dict[str, Any]] = {
    "result_ttl": RESULT_SECONDS,
    "memory_budget": 256 << 20,
    "webhook_allow": "127.0.0.1",
    "webhook_secret": "whsec_c29hayBzb2FrIHNvYWsgc29hayBzb2FrIHNvYWs=",
}
_LOOK_SECONDS: Final = 1.0
_ENGINE_WARM_SECONDS: Final = 15.0


def main() -> None:
    """Measure and print."""
    options = parser("soak", __doc__)
    options.add_argument("--minutes", type=positive, default=MINUTES, help="of the run")
    options.add_argument("--clients", type=count, default=CLIENTS, help="at once")
    options.add_argument("--seed", type=count, default=1, help="of what is done when")
    options.add_argument(
        "--kill-every", type=positive, default=KILL_SECONDS, help="seconds between engines' deaths"
    )
    options.add_argument("--write-docs", action="store_true", help="draw docs/soak.svg")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-soak-") as folder:
        model = write_random_llama(Path(folder) / MODEL, never_stops=True)
        with stack({MODEL: model}, **_SETTINGS) as running:
            figures, curves = measure(
                running, 60 * asked.minutes, asked.clients, asked.kill_every, asked.seed
            )
    if asked.write_docs:
        from benchmarks.plots import plot_soak  # noqa: PLC0415 - a run without a picture needs no matplotlib

        title = f"{figures['jobs']:,} jobs in {asked.minutes:g} minutes, {figures['engine_deaths']} engines killed"
        plot_soak(curves, DOCS / "soak.svg", title)
    print(json.dumps(figures))


Curve = Sequence[tuple[int, float, float]]
"""A process's id, seconds, a figure."""


def measure(
    running: Stack, seconds: float, clients: int, kill_seconds: float, seed: int
) -> tuple[dict[str, Any], dict[str, Curve]]:
    """Let clients go on for so long; the figures, and the curves of memory.

    Args:
        running: an API, its server, a worker.
        seconds: of the run.
        clients: at once.
        kill_seconds: between two deaths of the engine.
        seed: of what is done when.
    """
    token, key = new_key(time.time(), name="soak", sees_all=True)
    KeyBook(running.connection).add(key)
    (worker,) = running.workers
    found = {
        "api": lambda: psutil.Process(running.api.pid).children()[0],
        "worker": lambda: psutil.Process(worker.pid),
        "engine": lambda: engine_of(worker.pid),
    }
    stored = _Stored(running)
    with receiver() as hook, Footprints(found, _LOOK_SECONDS) as seen:
        going = Clients(running, token, hook, seed)
        with going.going(clients):
            deaths = _kill_now_and_then(running, seconds, kill_seconds, stored)
    warm = max(seconds / 3, min(RESULT_SECONDS + 30.0, seconds / 2))
    bytes_of: dict[str, Curve] = {
        name: [(look.pid, look.at_seconds, look.own_bytes) for look in looks]
        for name, looks in seen.looks.items()
    } | {"server": stored.bytes}
    slopes = {name: _judge(name, curve, warm) for name, curve in bytes_of.items()}
    keys = fit(stored.keys, warm)
    others = {
        what: {name: _judge(name, _of(what, looks), warm) for name, looks in seen.looks.items()}
        for what in ("descriptors", "threads")
    }
    every = [*slopes.values(), keys, *(slope for each in others.values() for slope in each.values())]
    return {
        "jobs": sum(going.counts.values()),
        "done": dict(going.counts),
        "faults": dict(going.faults),
        "engine_deaths": deaths,
        "bytes": {name: _shown(slope) for name, slope in slopes.items()},
        "keys": _shown(keys),
        **{what: {name: _shown(slope) for name, slope in each.items()} for what, each in others.items()},
        "flat": all(slope is not None and slope.flat for slope in every),
    }, bytes_of


class _Stored:
    """What the server keeps, look by look: bytes, and keys."""

    def __init__(self, running: Stack) -> None:
        self._running, self._started = running, time.monotonic()
        self.bytes: list[tuple[int, float, float]] = []
        self.keys: list[tuple[int, float, float]] = []

    def look(self) -> None:
        """Look once more."""
        memory: Any = self._running.connection.info("memory")
        keys: Any = self._running.connection.dbsize()
        now = time.monotonic() - self._started
        self.bytes.append((0, now, memory["used_memory"]))
        self.keys.append((0, now, keys))


def _kill_now_and_then(running: Stack, seconds: float, kill_seconds: float, stored: _Stored) -> int:
    """Wait for the run's end, and kill the engine meanwhile; how often."""
    until, deaths = time.monotonic() + seconds, 0
    kill_at = time.monotonic() + kill_seconds
    while time.monotonic() < until:
        threading.Event().wait(_LOOK_SECONDS)
        stored.look()
        if time.monotonic() >= kill_at:
            kill_at += kill_seconds
            engine = engine_of(running.workers[0].pid)
            if engine is not None:
                os.kill(engine.pid, signal.SIGKILL)
                deaths += 1
    return deaths


def _judge(name: str, curve: Curve, warm_seconds: float) -> Slope | None:
    """A curve's slope after the run's warm-up; an engine has one of its own besides, since there are several."""
    if name != "engine":
        return fit(curve, warm_seconds)
    return fit([point for point in curve if point[1] >= warm_seconds], _ENGINE_WARM_SECONDS)


def _of(what: str, looks: Sequence[Look]) -> Curve:
    return [(look.pid, look.at_seconds, getattr(look, what)) for look in looks]


def _shown(slope: Slope | None) -> dict[str, Any] | None:
    return None if slope is None else slope.shown()


if __name__ == "__main__":
    main()
