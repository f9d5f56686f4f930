"""What a queue, a process border and HTTP cost before MLX on a GPU: ``python -m benchmarks.gpu_throughput``.

Needs an NVIDIA GPU with ``mlx[cuda13]``, what tidegate imports, and no network; begins nothing new after ``--seconds``,
seven minutes. Random-weight bfloat16 llamas of about 1B and 8B parameters, written on the spot. On the same prompts of
256 tokens, greedily, 256 tokens out, 1, 8 and 32 at a time, one contender after another:

``limit``     mlx-lm's ``BatchGenerator`` in a loop in a process of its own, nothing around it
``server``    ``mlx_lm.server`` of the mlx-lm that is installed here, streaming over HTTP
``tidegate``  the whole stack, streaming over HTTP: server, API, worker, engine

Where there is no such GPU, ``--models tiny`` does the same on MLX's CPU build. Prints a line for each measurement,
a table, and last one JSON line, which is kept in the folder ``$OUT`` too where that is set, as far as it has got; from
there ``--write-docs RESULT.json`` puts it into ``docs/``.

``gpu_worst_ratio_to_limit``      tokens/s of tidegate over the limit's, the least of all points; goal: at least 0.95
``gpu_worst_ratio_to_server_32``  over the server's, the least of the models at 32; goal: at least 3.5
``points``                        by model, concurrency and contender: tokens/s, and milliseconds to the first text
                                  and between texts, p50 and p99
``failed``                        what was not measured, and why
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import peers
from benchmarks.arguments import parser, positive
from benchmarks.bare_batch import bare_batch
from benchmarks.gpu_oom import SIZES as OOM_SIZES
from benchmarks.gpu_oom import write_model
from benchmarks.gpu_page import table, write_docs
from benchmarks.lone_worker import ROOT, START_SECONDS, python_path
from benchmarks.pages import machine
from benchmarks.peers import PEERS, PeerFailed
from benchmarks.points import Point, bare_point, streamed_point
from benchmarks.sse_clients import chat_body, drive
from benchmarks.stack import stack
from tidegate.failures import ProcessFailed

MODELS: Final[dict[str, dict[str, Any]]] = {
    "1b": OOM_SIZES["1b"].model,
    "8b": {
        "layers": 32,
        "hidden": 4096,
        "heads": 32,
        "kv_heads": 8,
        "head_dim": 128,
        "intermediate": 14_336,
        "vocab": 128_256,
        "max_position": 8192,
        "dtype": "bfloat16",
    },
    "tiny": {"layers": 1, "dtype": "float32"},
}
ASKED: Final = {1: 4, 8: 16, 32: 64}
"""Requests by concurrency."""

TOKENS: Final = 256
"""Of an answer."""

PROMPT_TOKENS: Final = 256
TEMPLATE_TOKENS: Final = 19
"""Of them, what the chat template puts around what a user says."""

WARM_TOKENS: Final = 16
ANSWER_SECONDS: Final = 120.0
SECONDS: Final = 420.0
CONTENDERS: Final = ("limit", "server", "tidegate")

Contender = Callable[[list[str], int, int], Point]
"""Answers prompts, at a concurrency, each so many tokens long."""


@dataclass(slots=True)
class Found:
    """What was measured so far, and what was not."""

    points: dict[tuple[str, int, str], Point] = field(default_factory=dict)
    """By model, concurrency and contender."""

    failed: dict[str, str] = field(default_factory=dict)
    machine: str = ""


def main() -> None:
    """Measure and print."""
    options = parser("gpu_throughput", __doc__)
    options.add_argument("--models", nargs="+", choices=MODELS, default=["1b", "8b"], help="these")
    options.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="these")
    options.add_argument("--seconds", type=positive, default=SECONDS, help="after which nothing new begins")
    options.add_argument(
        "--write-docs",
        type=Path,
        metavar="RESULT",
        help="measure nothing: put this file's figures into docs/",
    )
    chosen = options.parse_args()
    if chosen.write_docs:
        write_docs(chosen.write_docs, ROOT / "docs")
        return
    os.environ.update(python_path() | {"HF_HUB_OFFLINE": "1"})
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    clock, found = Clock(time.monotonic(), chosen.seconds), Found(machine=machine())
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        for name in chosen.models:
            model = Path(folder) / name
            try:
                clock.say(f"writing {name}")
                write_model(model, MODELS[name])
                for who in chosen.only:
                    clock.say(f"starting {who} with {name}")
                    try_one(found, (name, who), model, out, clock)
            except (subprocess.CalledProcessError, OSError) as failed:
                found.failed[name] = str(failed)
            shutil.rmtree(model, ignore_errors=True)  # the next one is as large
    found.machine = f"{_device()}; {found.machine}"
    keep(found, out)
    print(table(summary(found)))
    print(json.dumps(summary(found) | {"wall_seconds": round(clock.seconds, 1)}))


def _device() -> str:
    """The name of what MLX computes on; asked for last, since who asks opens it."""
    from workers.gauge import device_name  # noqa: PLC0415 - it imports MLX

    return device_name()


@dataclass(frozen=True, slots=True)
class Clock:
    """When it began, and after how many seconds nothing new may."""

    began: float
    limit_seconds: float

    @property
    def seconds(self) -> float:
        """Since then."""
        return time.monotonic() - self.began

    @property
    def late(self) -> bool:
        """Whether nothing new may begin."""
        return self.seconds > self.limit_seconds

    def say(self, line: str) -> None:
        """Tell people how far it is."""
        print(f"{self.seconds:6.1f} s  {line}", flush=True)


def try_one(found: Found, where: tuple[str, str], model: Path, out: Path | None, clock: Clock) -> None:
    """One contender; if it fails, that is noted, and the others go on.

    Args:
        found: takes the points.
        where: the model and the contender.
        model: its folder.
        out: for what is to outlive this process.
        clock: says when it is late.
    """
    name, who = where
    try:
        with starting(who, model, model.with_name(f"{name}-{who}"), out) as answer:
            measure(found, where, answer, clock)
    except (PeerFailed, ProcessFailed, ValueError, OSError) as failed:
        found.failed[f"{name} {who}"] = f"{type(failed).__name__}: {failed}"
        clock.say(f"{name} {who} failed: {failed}")
    keep(found, out)


def measure(found: Found, where: tuple[str, str], answer: Contender, clock: Clock) -> None:
    """One contender, warmed up, at every concurrency, until it is late.

    Raises:
        ValueError: an answer failed.
    """
    name, who = where
    warmed = False
    for concurrency, requests in ASKED.items():
        if clock.late:
            found.failed[f"{name} {who} at {concurrency}"] = "no time was left"
            continue
        if not warmed:
            for many in (1, max(ASKED)):
                answer(prompts(many, many, "warm"), many, WARM_TOKENS)
            warmed = True
        point = answer(prompts(requests, concurrency, "tide"), concurrency, TOKENS)
        found.points[name, concurrency, who] = point
        clock.say(f"{name} {who} at {concurrency}: {json.dumps(point.shown())}")


def prompts(requests: int, concurrency: int, word: str) -> list[str]:
    """What users say: all of one length, and none beginning as another does."""
    length = PROMPT_TOKENS - TEMPLATE_TOKENS
    line = "comes in over the flats and takes what was left there, "
    return [f"{at:03d} {concurrency:02d} {word} {line * 6}"[:length] for at in range(requests)]


# Who answers


@contextmanager
def starting(who: str, model: Path, scratch: Path, out: Path | None) -> Iterator[Contender]:
    """A contender with the model loaded, alone on the device; its log goes to ``out``.

    Raises:
        PeerFailed: the server does not start.
        ProcessFailed: tidegate does not.
    """
    if who == "limit":
        with bare_batch(model) as bare:
            yield lambda asked, concurrency, tokens: bare_point(bare.run(asked, concurrency, tokens))
        return
    over_http = server(model, scratch) if who == "server" else tidegate(model)
    with over_http as (url, name, log):
        try:
            yield lambda asked, concurrency, tokens: streamed_point(
                drive(
                    url, [chat_body(name, prompt, tokens) for prompt in asked], concurrency, ANSWER_SECONDS
                ),
                tokens,
            )
        finally:
            if out is not None:
                shutil.copy(log, out / f"{scratch.name}.log")


@contextmanager
def server(model: Path, scratch: Path) -> Iterator[tuple[str, str, Path]]:
    """``mlx_lm.server`` from where this interpreter finds mlx-lm: its URL, its name of the model, its log."""
    peer = next(peer for peer in PEERS if peer.name == "mlx-lm")
    found_here = ("/usr/bin/env", f"PYTHONPATH={os.environ['PYTHONPATH']}")  # a peer's variables have none
    with peers.serving(peer, Path(sys.executable), model, scratch, found_here) as running:
        yield running.url, running.model_name, running.log


@contextmanager
def tidegate(model: Path) -> Iterator[tuple[str, str, Path]]:
    """The whole stack: the same of it."""
    with stack({model.name: model}, start_seconds=START_SECONDS) as running:
        log = running.workers[0].log
        assert log is not None
        yield running.url, model.name, log


# What is said


def summary(found: Found) -> dict[str, Any]:
    """The figures of the module's text; a ratio is None where nothing of it was measured."""
    points: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, concurrency, who), point in found.points.items():
        points.setdefault(name, {}).setdefault(str(concurrency), {})[who] = point.shown()
    to_limit, to_server = ratios(found.points, "limit"), ratios(found.points, "server")
    at_32 = {where: ratio for where, ratio in to_server.items() if where[1] == max(ASKED)}
    return {
        "gpu_worst_ratio_to_limit": round(min(to_limit.values()), 3) if to_limit else None,
        "gpu_worst_ratio_to_server_32": round(min(at_32.values()), 3) if at_32 else None,
        "points": points,
        "failed": found.failed,
        "machine": found.machine,
    }


def ratios(points: Mapping[tuple[str, int, str], Point], other: str) -> dict[tuple[str, int], float]:
    """Tidegate's tokens a second over another's, by model and concurrency, where both were measured."""
    return {
        (name, concurrency): own.tokens_per_second / points[name, concurrency, other].tokens_per_second
        for (name, concurrency, who), own in points.items()
        if who == "tidegate" and (name, concurrency, other) in points
    }


def keep(found: Found, out: Path | None) -> None:
    """Write what there is so far where it outlives this process."""
    if out is not None:
        (out / "gpu_throughput.json").write_text(json.dumps(summary(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
