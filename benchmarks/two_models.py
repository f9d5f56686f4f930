"""A server with two models: tidegate, and each peer as it can serve a second one.

``mlx-lm``     one process: it loads the model that a request names, and lets go of the one before
``rapid-mlx``  one process: it is asked to load another beside the first, ``POST /v1/models/load``
``vllm-mlx``   two processes, one for each model, so that they have no common memory budget. Its registry of models
               (``--models-config``) does serve two from one, but with continuous batching on MLX 0.32.4 an engine of
               them stops answering when requests with other sampling come: ``RuntimeError: There is no Stream(cpu,
               3) in current thread``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from benchmarks import peers
from benchmarks.peers import Peer, PeerFailed, RunningPeer
from benchmarks.stack import stack

LOAD_SECONDS: Final = 120.0
ONE_EACH: Final = frozenset({"vllm-mlx"})
"""Who is a process for each model."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model is served, and under what name."""

    url: str
    name: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    routes: Mapping[str, Route]
    """By model."""

    exit_code: Callable[[], int | None]
    """How it ended, the first process that did; None while all run."""


@contextmanager
def tidegate(models: Mapping[str, Path]) -> Iterator[Server]:
    """Tidegate with all its defaults."""
    with stack(dict(models)) as running:
        routes = {name: Route(running.url, name) for name in models}
        yield Server(routes, running.workers[0].process.poll)


@contextmanager
def both(peer: Peer, python: Path, models: Mapping[str, Path], scratch: Path) -> Iterator[Server]:
    """A peer with all its defaults.

    Args:
        peer: which.
        python: its environment's interpreter.
        models: by name.
        scratch: a folder for what it writes.

    Raises:
        PeerFailed: it ends, does not answer in time, or refuses the second model.
    """
    started = list(models) if peer.name in ONE_EACH else list(models)[:1]
    with ExitStack() as ends:
        running = [
            ends.enter_context(peers.serving(peer, python, models[name], scratch / name)) for name in started
        ]
        routes = {
            name: Route(each.url, str(models[name])) for name, each in zip(started, running, strict=True)
        }
        for name in list(models)[len(started) :]:
            routes[name] = Route(running[0].url, str(models[name]))
            if peer.name == "rapid-mlx":
                _load(routes[name])
        yield Server(routes, lambda: first_exit(running))


def first_exit(running: list[RunningPeer]) -> int | None:
    """The exit code of the first of them that ended; None while all run."""
    return next((each.exit_code for each in running if each.exit_code is not None), None)


def _load(route: Route) -> None:
    with httpx.Client(base_url=route.url, trust_env=False, timeout=LOAD_SECONDS) as http:
        answer = http.post("/v1/models/load", json={"model": route.name})
    if not answer.is_success:
        raise PeerFailed(f"rapid-mlx does not load {route.name}: {answer.status_code} {answer.text[:500]}")
