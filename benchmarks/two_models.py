"""A server with two models, in one process each: tidegate, and each peer as it is told of a second model.

``mlx-lm``     loads the model that a request names, and lets go of the one before
``rapid-mlx``  is asked to load another beside the first: ``POST /v1/models/load``
``vllm-mlx``   reads a registry, and loads both at the start: ``--models-config``
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import httpx

from benchmarks import peers
from benchmarks.peers import Peer, PeerFailed
from benchmarks.stack import stack

LOAD_SECONDS: Final = 120.0
WEIGHTS_GB: Final = 4
"""What vllm-mlx must be told that the weights of all its models may take: more than ours do."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    url: str
    names: Mapping[str, str]
    """What it calls each model."""

    exit_code: Callable[[], int | None]
    """How it ended; None while it runs."""


@contextmanager
def tidegate(models: Mapping[str, Path]) -> Iterator[Server]:
    """Tidegate with all its defaults."""
    with stack(dict(models)) as running:
        yield Server(running.url, {name: name for name in models}, running.workers[0].process.poll)


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
    scratch.mkdir(parents=True, exist_ok=True)
    first = next(iter(models.values()))
    names = {name: str(folder) for name, folder in models.items()}
    if peer.name == "vllm-mlx":
        peer, first = replace(peer, command=registry_words(peer.command)), scratch / "models.yaml"
        first.write_text(registry(models))
        names = {name: name for name in models}
    with peers.serving(peer, python, first, scratch) as running:
        if peer.name == "rapid-mlx":
            for name in list(models)[1:]:
                _load(running.url, names[name])
        yield Server(running.url, names, running.process.poll)


def registry_words(command: tuple[str, ...]) -> tuple[str, ...]:
    """A command line with a registry in the place of the model."""
    return tuple(
        each for word in command for each in (("--models-config", word) if word == "{model}" else (word,))
    )


def registry(models: Mapping[str, Path]) -> str:
    """vllm-mlx's file of models. JSON is YAML."""
    listed = [{"name": name, "path": str(folder), "preload": True} for name, folder in models.items()]
    return json.dumps({"manager": {"memory_budget_gb": WEIGHTS_GB}, "models": listed})


def _load(url: str, model: str) -> None:
    with httpx.Client(base_url=url, trust_env=False, timeout=LOAD_SECONDS) as http:
        answer = http.post("/v1/models/load", json={"model": model})
    if not answer.is_success:
        raise PeerFailed(f"rapid-mlx does not load {model}: {answer.status_code} {answer.text[:500]}")
