"""One run's memory, moment by moment: ``python -m benchmarks.memory_run``.

A whole stack with a small model of random weights and a small budget, on which everything happens that the account
knows of:

1. short answers, from which the model's history learns how long its answers are;
2. a crowd of class ``batch`` whose answers are far longer than that: more are let in than can end together, and the
   guard puts the youngest back;
3. interactive jobs while they run: others make room for them;
4. the engine's address space is made to end a little above what it has (Linux): it dies of it, the next one takes less.

What the worker says of itself is read as often as it says it, what happens to jobs as it is told to their readers.
``--write-docs`` keeps both in ``docs/memory-run.json`` and draws ``docs/memory-run.svg`` of it
(:mod:`benchmarks.memory_picture`); ``--redraw`` only draws. Prints one JSON line last:

``seconds``   of the run
``jobs``      by the state that they ended in
``marks``     admissions, jobs put back, jobs in an engine whose memory ran out, and ends, by kind
``over_budget_points``  moments at which more was in use than the budget: the goal is 0
"""

from __future__ import annotations

import collections
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.arguments import parser
from benchmarks.lone_worker import engine_pid, has_ended
from benchmarks.memory_picture import counted, memory_svg
from benchmarks.pages import DOCS, machine, replace_part
from benchmarks.random_models import write_random_llama
from benchmarks.recovery import ENGINE_ENVIRONMENT, UNLIMITED_BYTES
from benchmarks.stack import Stack, stack, wait_until
from scheduler import fleet
from scheduler.events import STEPS_CHANNEL, TERMINAL_KINDS, Kind, LoggedEvent, parse_step
from scheduler.job import TERMINAL
from scheduler.reasons import Reason
from scheduler.record import JobRecord
from scheduler.request import read_request

MODEL: Final = "wide"
BUDGET_BYTES: Final = 128 << 20
DATA: Final = DOCS / "memory-run.json"
PICTURE: Final = DOCS / "memory-run.svg"
PAGE: Final = DOCS / "how-it-works.md"

_LOOK_SECONDS: Final = 0.02
_JOB_SECONDS: Final = 120.0
_LITTLE_BYTES: Final = 1 << 20
_NEVER_ENDS: Final = {"logit_bias": {"258": -100}}
"""The token that ends an answer, which most answers have long before their bound."""

SAID: Final = (
    *("budget_bytes", "working_bytes", "weights_bytes", "reserved_bytes"),
    *("used_bytes", "cache_bytes", "headroom_bytes"),
)
"""Of a worker's report, in the order of a point's figures behind its second."""


def main() -> None:
    """Run, and print."""
    options = parser("memory_run", __doc__)
    options.add_argument(
        "--write-docs", action="store_true", help=f"keep docs/{DATA.name}, draw docs/{PICTURE.name}"
    )
    options.add_argument("--redraw", action="store_true", help=f"run nothing: draw what docs/{DATA.name} has")
    asked = options.parse_args()
    if asked.redraw:
        draw()
        return
    os.environ |= ENGINE_ENVIRONMENT
    with tempfile.TemporaryDirectory(prefix="tidegate-run-") as folder:
        model = write_random_llama(
            Path(folder) / MODEL, layers=2, heads=8, kv_heads=8, head_dim=256, max_position=4096
        )
        with stack(
            {MODEL: model},
            memory_budget=BUDGET_BYTES,
            lease_seconds=2.0,
            max_batch=16,
            prefill_chunk=128,
            prefix_cache=8 << 20,
            blas_preload="off",
        ) as running:
            if sys.platform == "linux":  # a limit that binds nobody, so that the engine's can be changed
                pid = running.workers[0].pid
                psutil.Process(pid).rlimit(psutil.RLIMIT_AS, (UNLIMITED_BYTES, UNLIMITED_BYTES))
            told = record(running)
    if asked.write_docs:
        DATA.write_text(kept(told | {"machine": machine()}))
        draw()
    print(json.dumps(figures(told)))


def draw() -> None:
    """The picture and its sentence, of the record that is kept."""
    told = json.loads(DATA.read_text())
    PICTURE.write_text(memory_svg(told))
    replace_part(PAGE, "memory-run", sentence(told))


def record(running: Stack) -> dict[str, Any]:
    """Let it all happen: ``points`` (seconds, then :data:`SAID`), ``marks`` and ``jobs`` by their last state."""
    with _watched(running) as seen:
        jobs = _submit(running, 36, "short", max_tokens=300, temperature=1)
        _until_ended(running, jobs)
        crowd = _submit(running, 8, "long", max_tokens=800, priority="batch", temperature=1, **_NEVER_ENDS)
        wait_until(
            lambda: any(map(_came_back, map(running.lifecycle.get, crowd))), "a job put back", _JOB_SECONDS
        )
        prompt = "the tide comes in " * 30
        urgent = _submit(running, 2, prompt, max_tokens=150, priority="interactive", **_NEVER_ENDS)
        _until_ended(running, urgent)
        pid = engine_pid(running.workers[0].pid)
        if sys.platform == "linux" and pid:
            engine = psutil.Process(pid)
            engine.rlimit(psutil.RLIMIT_AS, (engine.memory_info().vms + _LITTLE_BYTES, UNLIMITED_BYTES))
            wait_until(lambda: has_ended(pid), "end of the engine", _JOB_SECONDS)
        _until_ended(running, crowd)
        ended = collections.Counter(
            running.lifecycle.get(job).state.value for job in (*jobs, *crowd, *urgent)
        )
    return {"points": seen.points, "marks": seen.marks, "jobs": dict(ended)}


def figures(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is printed of a record."""
    points: Sequence[Sequence[float]] = told["points"]
    return {
        "seconds": round(points[-1][0], 1),
        "jobs": told["jobs"],
        "marks": dict(collections.Counter(kind for _, kind, _ in told["marks"])),
        "over_budget_points": sum(
            point[1 + SAID.index("used_bytes")] > point[1 + SAID.index("budget_bytes")] for point in points
        ),
    }


def sentence(told: Mapping[str, Any]) -> str:
    """What the page says above the picture."""
    seconds, ended = told["points"][-1][0], told["rest"]["jobs"]
    used, budget = 1 + SAID.index("used_bytes"), 1 + SAID.index("budget_bytes")
    most = max(point[used] / point[budget] for point in told["points"])
    states = ", ".join(f"{count} `{state}`" for state, count in ended.items())
    return (
        f"{seconds:.0f} s on {told['rest']['machine']}, with other work beside it: {counted(told)}; ended: {states}. In use"
        f" was {most:.0%} of the budget at most."
    )


def kept(told: Mapping[str, Any]) -> str:
    """A record as a file: a line for each moment."""
    rest = {name: value for name, value in told.items() if name not in {"points", "marks"}}
    rows = ",\n".join(
        f' "{name}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in told[name]) + "\n ]"
        for name in ("points", "marks")
    )
    return f'{{\n "said": {json.dumps(SAID)},\n "rest": {json.dumps(rest)},\n{rows}\n}}\n'


class _Seen:
    """What was seen so far."""

    def __init__(self) -> None:
        self.began = time.time()
        self.points: list[list[float]] = []
        self.marks: list[list[Any]] = []

    def report(self, report: fleet.WorkerReport) -> None:
        """Take a report, unless it is the last one again."""
        at = round(report.updated_at - self.began, 2)
        if at >= 0 and (not self.points or at > self.points[-1][0]):
            self.points.append([at, *(getattr(report, name) for name in SAID)])

    def event(self, job_id: str, event: LoggedEvent) -> None:
        """Take what happened to a job."""
        kind = _mark(event)
        if kind:
            self.marks.append([round(time.time() - self.began, 2), kind, job_id[-4:]])


def _mark(event: LoggedEvent) -> str | None:
    if event.kind is Kind.STARTED:
        return "admitted"
    if event.kind in TERMINAL_KINDS:
        return "ended"
    if event.kind is Kind.REQUEUED:
        lost = {Reason.OUT_OF_MEMORY.value, Reason.ENGINE_LOST.value}
        return "out of memory" if event.data.get("reason") in lost else "put back"
    return None


@contextmanager
def _watched(running: Stack) -> Iterator[_Seen]:
    """Look at the reports and listen to the jobs' logs until the block ends."""
    seen, over = _Seen(), threading.Event()
    pubsub = running.connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    pubsub.subscribe(STEPS_CHANNEL)

    def look() -> None:
        while not over.is_set():
            for report in fleet.live_workers(running.connection):
                seen.report(report)
            while (message := pubsub.get_message(timeout=_LOOK_SECONDS)) is not None:
                for job_id, event in parse_step(message["data"]):
                    seen.event(job_id, event)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        pubsub.close()


def _submit(running: Stack, count: int, prompt: str, **fields: Any) -> list[str]:
    bodies = [{"model": MODEL, "prompt": f"{at}: {prompt}", "seed": at} | fields for at in range(count)]
    return [running.lifecycle.submit(read_request(body)).id for body in bodies]


def _came_back(rec: JobRecord) -> bool:
    return rec.meta.attempt > 1 or rec.state in TERMINAL


def _has_ended(running: Stack, job_id: str) -> bool:
    return running.lifecycle.get(job_id).state in TERMINAL


def _until_ended(running: Stack, jobs: Sequence[str]) -> None:
    for job in jobs:
        wait_until(partial(_has_ended, running, job), f"end of {job}", _JOB_SECONDS)


if __name__ == "__main__":
    main()
