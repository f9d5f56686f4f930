"""What an engine's death costs the jobs in it: ``python -m benchmarks.recovery``.

A real server, a real worker and its engine, and eight clients at once, half of them greedy and half seeded, of
different lengths, whose streams share one batch. At a random moment in mid-batch the engine dies; every client's
stream is then compared, token by token, with that of the same jobs undisturbed. Each round is a batch and a
death. Prints one JSON line last, with an entry for each way to die:

``sigkill``, ``sigabrt``  the signal comes from without, as Linux, macOS and Metal's own handlers send it
``out_of_memory``         the engine's address space is limited to what it has and a little more; the next growth of
                          a cache is an allocation that fails, of which MLX's CPU build dies (``SIGSEGV``)

and in each of them, over all rounds and clients:

``interrupted``        streams that were in an engine which died; the others had not begun, or had ended
``lost``               tokens of the undisturbed answers that never came
``duplicated_tokens``  tokens that came once more than they should have
``changed_outputs``    streams of which anything differs: text, result, kind of end, or numbers with a gap or a repeat
``innocents_failed``   streams that ended otherwise than undisturbed, in silence too; nobody's job was to blame
``resume_s``           the engine is dead until some client has its next token: median and most, in seconds
``claimed_s``          of that, until a worker has claimed a job again, its next engine started and the model loaded
``everybody_s``        the same as ``resume_s`` until every client that was interrupted has its next token
``classified``         how the worker named these deaths

The model computes in float32 with MLX's own matrix product, whose results do not hang on the company (see
``benchmarks.random_models``). Limits on address space are Linux's: elsewhere ``out_of_memory`` is left out.
"""

from __future__ import annotations

import collections
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.arguments import parser
from benchmarks.following import Crowd, Difference, Story, compare
from benchmarks.lone_worker import engine_pid, has_ended
from benchmarks.random_models import write_random_llama
from benchmarks.stack import START_SECONDS, Stack, stack, wait_until
from scheduler import fleet
from tidegate import programs
from tidegate.processes import Child, Processes
from workers.classifier import exit_name

MODEL: Final = "wide"
BATCH: Final = 8
ROUNDS: Final = 10
"""Of each way to die."""

DEATHS_A_WORKER: Final = 5
"""Twice as many within a few minutes, and the worker takes it for a crash loop and cools down."""

SHORTEST_TOKENS: Final = 220
LATEST_TOKENS: Final = 100
"""The moment comes before the first stream has more: all eight are in the batch then, and when their caches grow."""

PROMPT_MOST_TOKENS: Final = 120
"""Caches have room for 256 tokens at first: the batch's grow before its shortest answer ends."""

LITTLE_BYTES: Final = 4 << 20
"""Of address space at most, beyond what an engine has that is to run out: less than its caches grow by."""

ENGINE_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",  # it shares two cores with everybody who talks of it
    "MALLOC_ARENA_MAX": "1",  # no address space put by for later: what an allocation takes counts at once
    "MALLOC_MMAP_THRESHOLD_": "131072",
}
UNLIMITED_BYTES: Final = 1 << 44
"""A worker's own limit where its engine is to run out: larger than any machine, and yet a limit."""


@dataclass(slots=True)
class Tally:
    """What the rounds of one way to die came to; seconds."""

    differences: list[Difference] = field(default_factory=list)
    interrupted: int = 0
    resumed: list[float] = field(default_factory=list)
    claimed: list[float] = field(default_factory=list)
    everybody: list[float] = field(default_factory=list)
    classified: collections.Counter[str] = field(default_factory=collections.Counter)

    def figures(self) -> dict[str, Any]:
        """As they are printed."""
        return {
            "rounds": len(self.resumed),
            "interrupted": self.interrupted,
            "lost": sum(each.lost_tokens for each in self.differences),
            "duplicated_tokens": sum(each.duplicated_tokens for each in self.differences),
            "changed_outputs": sum(each.changed for each in self.differences),
            "innocents_failed": sum(each.failed for each in self.differences),
            "resume_s": _spread(self.resumed),
            "claimed_s": _spread(self.claimed),
            "everybody_s": _spread(self.everybody),
            "classified": dict(self.classified),
        }


def main() -> None:
    """Measure and print."""
    parser("recovery", __doc__).parse_args()
    os.environ |= ENGINE_ENVIRONMENT
    draw = random.Random(5)
    ends: dict[str, Callable[[int], None]] = {
        "sigkill": lambda pid: os.kill(pid, signal.SIGKILL),
        "sigabrt": lambda pid: os.kill(pid, signal.SIGABRT),
    }
    if sys.platform == "linux":
        ends["out_of_memory"] = lambda pid: _run_out(pid, draw.randrange(LITTLE_BYTES))
    bodies = _bodies(draw)
    tallies = {name: Tally() for name in ends}
    with tempfile.TemporaryDirectory() as folder:
        model = write_random_llama(
            Path(folder) / MODEL, heads=8, kv_heads=8, head_dim=64, max_position=1024, never_stops=True
        )
        settings: dict[str, Any] = {
            "memory_budget": 2 << 30,
            "max_batch": BATCH,
            "prefill_chunk": 64,
            "blas_preload": "off",
        }
        with stack({MODEL: model}, workers=0, **settings) as running:
            calm = _calm(running, bodies)
            for name, end in ends.items():
                for _ in range(0, ROUNDS, DEATHS_A_WORKER):
                    with _worker(running) as worker:
                        for _ in range(DEATHS_A_WORKER):
                            _round(running, worker, bodies, calm, end, draw, tallies[name])
                        tallies[name].classified += _named(worker)
    print(json.dumps({name: tally.figures() for name, tally in tallies.items()}))


def _bodies(draw: random.Random) -> list[dict[str, Any]]:
    """Eight jobs, every other one seeded."""
    jobs = []
    for number in range(BATCH):
        prompt = f"{number}: " + "the tide comes in and " * draw.randint(1, PROMPT_MOST_TOKENS // 22)
        body = {"model": MODEL, "prompt": prompt[:PROMPT_MOST_TOKENS], "temperature": 0}
        body["max_tokens"] = SHORTEST_TOKENS + 15 * number
        if number % 2:
            body |= {"temperature": 0.8, "seed": number, "repetition_penalty": 1.1, "presence_penalty": 0.3}
        jobs.append(body)
    return jobs


def _calm(running: Stack, bodies: list[dict[str, Any]]) -> list[Story]:
    """The undisturbed run's streams.

    Raises:
        RuntimeError: two such runs differ, so that nothing can be compared with them.
    """
    with _worker(running):
        first, second = (Crowd(running.url, bodies).stay() for _ in range(2))
    if any(compare(one, other).changed for one, other in zip(first, second, strict=True)):
        raise RuntimeError("two undisturbed runs differ")
    if [story.tokens for story in first] != [body["max_tokens"] for body in bodies]:
        raise RuntimeError("a token is not a byte of the text")
    return first


def _round(
    running: Stack,
    worker: Child,
    bodies: list[dict[str, Any]],
    calm: list[Story],
    end: Callable[[int], None],
    draw: random.Random,
    tally: Tally,
) -> None:
    """One batch, in whose midst the engine dies."""
    tokens = draw.randrange(LATEST_TOKENS)
    crowd = Crowd(running.url, bodies)
    crowd.wait_until(lambda story: bool(story.starts()), every=True)
    crowd.wait_until(lambda story: story.tokens >= tokens, every=False)
    pid = engine_pid(worker.pid)
    assert pid, "the worker has no engine"
    end(pid)
    wait_until(lambda: has_ended(pid), "end of the engine")
    died_at = time.monotonic()
    stories = crowd.stay()
    tally.differences += [compare(one, other) for one, other in zip(calm, stories, strict=True)]
    again = [(story, story.starts()[1]) for story in stories if len(story.starts()) > 1]
    tally.interrupted += len(again)
    moments = [at for story, start in again if (at := story.next_token_at(start)) is not None]
    tally.claimed.append(min(start.at for _, start in again) - died_at)
    tally.resumed.append(min(moments) - died_at)
    tally.everybody.append(max(moments) - died_at)


def _run_out(pid: int, little_bytes: int) -> None:
    """Let an engine have no more memory than it has, and a little."""
    engine = psutil.Process(pid)
    limit = engine.memory_info().vms + little_bytes
    engine.rlimit(psutil.RLIMIT_AS, (limit, UNLIMITED_BYTES))


@contextmanager
def _worker(running: Stack) -> Iterator[Child]:
    """A worker that is ready: under a limit that binds nobody, where the system has such limits."""
    with Processes(running.settings.data_dir / "logs") as processes:
        child = processes.start(programs.worker(running.settings))
        if sys.platform == "linux":
            psutil.Process(child.pid).rlimit(psutil.RLIMIT_AS, (UNLIMITED_BYTES, UNLIMITED_BYTES))
        processes.wait_until(
            lambda: any(
                each.cards and each.engine == "ready" for each in fleet.live_workers(running.connection)
            ),
            "the worker",
            START_SECONDS,
        )
        yield child
    wait_until(lambda: not fleet.live_workers(running.connection), "end of the worker")


def _named(worker: Child) -> collections.Counter[str]:
    """How a worker's log tells of its engines' deaths, as ``SIGSEGV: out_of_memory``."""
    assert worker.log is not None
    plain = re.sub(r"\x1b\[[0-9;]*m", "", worker.log.read_text(errors="replace"))
    told = re.findall(r"engine died.*\bexit_code=(-?\d+).*\bfault=(\w+)", plain)
    return collections.Counter(f"{exit_name(int(code))}: {fault}" for code, fault in told)


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)}


if __name__ == "__main__":
    main()
