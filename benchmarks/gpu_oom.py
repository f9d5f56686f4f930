"""Running out of a GPU's memory, for real: ``python -m benchmarks.gpu_oom [--logs FOLDER]``.

Needs an NVIDIA GPU with ``mlx[cuda13]``, and no network; takes some five minutes. A random-weight llama of about
1B parameters, 32 greedy jobs of 4,096 prompt tokens, a real server, worker and engine. First undisturbed, 32
jobs at a time, twice, and 8 at a time; then another process fills the device to within a few GiB, so that some
of the jobs fit beside the weights and not all:

``told``     before the engine starts, so that its budget is what is left: nothing should run out
``grabbed``  in steps while the jobs run, so that the budget was true once and is not any more
``blind``    before the engine starts, but its operator's budget is four times what all jobs need

Where there is no such GPU, ``--size tiny --jobs 8 --prompt-tokens 256`` does the same on MLX's CPU build, under
a limit of the address space instead of a full device: running out is then a segmentation fault of the engine.

Prints a line for each run as JSON, and one JSON line last, whose figures are those of the three disturbed runs
together unless they are said to be of the undisturbed:

``out_of_memory_events``    exceptions and deaths that were taken for running out, and ``engine_deaths``
``sheds``                   jobs that the guard put back
``completed``, ``jobs``     jobs that brought their whole text, of so many; goal: all
``broken_logs``             jobs whose log has a gap or a repeat, or is not the result's text; goal: 0
``equal_texts``             texts that equal the first undisturbed run's
``undisturbed_differ``      texts that differ between undisturbed runs of 32 and of 8 at a time, of so many
                            ``undisturbed_jobs``; ``repeat_differ``: between two of 32. In bfloat16 a near-tie
                            falls with the company, and everything after it differs; ``--dtype float32`` with
                            ``MLX_ENABLE_TF32=0`` has far fewer
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.arguments import parser
from benchmarks.lone_worker import ROOT, place, python_path
from benchmarks.neighbour import Neighbour, neighbour
from benchmarks.same_jobs import MODEL, Run, SameJobs
from scheduler.card import ModelCard
from scheduler.footprint import batch_bytes
from tidegate.failures import ProcessFailed

SHARE: Final = 0.5
"""Of what all jobs take together beside the weights: what is left of it."""

STEPS: Final = (0.5, 0.25, 0.1, 0.03)
"""Of the same: what a neighbour leaves free, step by step."""

KEPT: Final = 0.3
"""Of the same: what it leaves in all, whatever an engine gives back meanwhile."""

AMPLE: Final = 2.0
"""Of the same: what is there before a neighbour grabs it."""

BLIND: Final = 4.0
"""Times what all jobs need that an operator says there is."""

SCENARIOS: Final = ("told", "grabbed", "blind")

_TROUBLE: Final = re.compile(r"engine (?:raised|died) .*")
_PID: Final = re.compile(r"\bpid=\d+")


@dataclass(frozen=True, slots=True)
class Size:
    """A model and how it is served."""

    model: dict[str, Any]
    prompt_tokens: int
    max_tokens: int
    chunk_tokens: int


SIZES: Final = {
    "1b": Size(
        {
            "layers": 16,
            "hidden": 2048,
            "heads": 32,
            "kv_heads": 8,
            "head_dim": 64,
            "intermediate": 8192,
            "vocab": 32_768,
            "max_position": 8192,
            "dtype": "bfloat16",
        },
        prompt_tokens=4096,
        max_tokens=128,
        chunk_tokens=512,
    ),
    "tiny": Size(
        {"layers": 4, "hidden": 64, "heads": 16, "kv_heads": 16, "head_dim": 128, "dtype": "float32"},
        prompt_tokens=256,
        max_tokens=48,
        chunk_tokens=64,
    ),
}


@dataclass(frozen=True, slots=True)
class Need:
    """What the jobs and an engine need here, in bytes."""

    weights_bytes: int
    batch_bytes: int
    """Of all jobs together, beside the weights."""
    settled_bytes: int
    """Of an idle engine, its model loaded, as the neighbour counts."""

    def left(self, share: float) -> int:
        """What holds an engine and a share of the jobs."""
        return self.settled_bytes + int(share * self.batch_bytes)


def undisturbed(bench: SameJobs, beside: Neighbour) -> tuple[list[Run], Need]:
    """All jobs at a time, twice, and a quarter of them at a time; then what they need."""
    with bench.place.worker("together", max_batch=bench.jobs) as worker:
        runs = [bench.run(f"undisturbed, {bench.jobs} at a time", worker) for _ in range(2)]
    few = max(1, bench.jobs // 4)
    with bench.place.worker("apart", max_batch=few) as worker:
        bench.warm(worker)  # CUDA brings a page of loaded weights to the device when it is first read
        settled = beside.settled_bytes(worker.engine_pid)
        runs.append(bench.run(f"undisturbed, {few} at a time", worker))
        report = worker.report
        assert report is not None
        card = ModelCard.from_json(report.cards[MODEL])
    settings = bench.place.settings
    batch = batch_bytes(card, bench.rows, settings.prefill_chunk, settings.prefill_rows)
    return runs, Need(card.weights_bytes, batch, settled)


def disturbed(name: str, bench: SameJobs, beside: Neighbour, need: Need) -> Run:
    """One of the disturbed runs: see the module.

    Args:
        name: ``told``, ``grabbed`` or ``blind``.
        bench: the jobs.
        beside: takes the memory.
        need: of the undisturbed runs.
    """
    said = {"memory_budget": need.weights_bytes + int(BLIND * need.batch_bytes)} if name == "blind" else {}
    steps = iter(STEPS if name == "grabbed" else ())

    def take(answered: int) -> None:
        """Once a quarter of the jobs have tokens, the memory goes step by step."""
        engine = worker.engine_pid
        left = next(steps, None) if engine and 4 * answered >= bench.jobs else None
        if left is not None:
            with contextlib.suppress(psutil.Error, ProcessLookupError):  # the engine is gone already
                left_bytes = int(left * need.batch_bytes)
                beside.leave(left_bytes, (engine, worker.child.pid), need.left(KEPT))

    beside.leave(need.left(AMPLE if name == "grabbed" else SHARE))
    try:
        with bench.place.worker(name, prefix=beside.prefix, max_batch=bench.jobs, **said) as worker:
            run = bench.run(name, worker, take)
            show_trouble(worker.log)
    except ProcessFailed as failed:  # the other runs may still tell something
        print(failed, flush=True)
        run = Run((None,) * bench.jobs, 0, 0.0, Counter(), Counter(no_worker=bench.jobs))
    beside.release()
    return run


def show_trouble(log: str) -> None:
    """What a worker's engines met, as it logged it: each once."""
    for text, times in Counter(_PID.sub("", line)[:400] for line in _TROUBLE.findall(log)).items():
        print(f"  {times} x {text}", flush=True)


def summary(calm: list[Run], runs: dict[str, Run]) -> dict[str, Any]:
    """The figures of the module's text."""
    first, again, apart = calm
    jobs = len(first.texts)
    counted = {
        "out_of_memory_events": sum(run.counters["out_of_memory"] for run in runs.values()),
        "engine_deaths": sum(run.counters["engine_deaths"] for run in runs.values()),
        "sheds": sum(run.counters["sheds"] for run in runs.values()),
        "completed": sum(run.completed for run in runs.values()),
        "jobs": jobs * len(runs),
        "broken_logs": sum(run.broken_logs for run in (*calm, *runs.values())),
        "equal_texts": sum(run.equal(first) for run in runs.values()),
        "undisturbed_differ": jobs - apart.equal(first),
        "repeat_differ": jobs - again.equal(first),
        "undisturbed_jobs": jobs,
    }
    each: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        each[name] = {
            "out_of_memory_events": run.counters["out_of_memory"],
            "engine_deaths": run.counters["engine_deaths"],
            "sheds": run.counters["sheds"],
            "completed": run.completed,
            "equal_texts": run.equal(first),
            "seconds": round(run.seconds, 1),
        }
    return counted | each | {"undisturbed_seconds": [round(run.seconds, 1) for run in calm]}


def write_model(folder: Path, fields: dict[str, Any]) -> None:
    """Write the model in a process of its own: this one must not hold a part of the device."""
    command = [sys.executable, "-m", "benchmarks.gpu_oom", "--write-model", str(folder), json.dumps(fields)]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | python_path())


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the model, run everything in a folder, and say what came of it."""
    size, began = SIZES[asked.size], time.monotonic()
    fields = size.model | ({"dtype": asked.dtype} if asked.dtype else {})
    write_model(folder / "model", fields)
    print(json.dumps({"model_seconds": round(time.monotonic() - began, 1)} | fields), flush=True)
    settings = {
        "prefill_chunk": size.chunk_tokens,
        "progress_timeout": 60,
        "shutdown_grace": 0,
        "target_wait": 86_400,
        "blas_preload": "off",
    }
    with neighbour() as beside, place(folder, MODEL, folder / "model", **settings) as here:
        prompt_tokens = asked.prompt_tokens or size.prompt_tokens
        bench = SameJobs(here, asked.jobs, prompt_tokens, size.max_tokens, asked.seconds)
        calm, need = undisturbed(bench, beside)
        print(json.dumps({"device": beside.device, **asdict(need)}), flush=True)
        runs = {name: disturbed(name, bench, beside, need) for name in asked.only or SCENARIOS}
        found = {"device": beside.device, "dtype": fields["dtype"], **summary(calm, runs)}
    return found | {"wall_seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    """Run and print."""
    options = parser("gpu_oom", __doc__)
    options.add_argument("--size", choices=SIZES, default="1b")
    options.add_argument("--jobs", type=int, default=32)
    options.add_argument(
        "--prompt-tokens", type=int, help="of each job; the size's own where it is not given"
    )
    options.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the weights, likewise")
    options.add_argument("--only", nargs="+", choices=SCENARIOS, help="run only these, and the undisturbed")
    options.add_argument("--seconds", type=float, default=90.0, help="that one run may take")
    options.add_argument("--logs", type=Path, help="copy the workers' logs there at the end")
    options.add_argument("--write-model", nargs=2, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.write_model:
        from benchmarks.random_models import write_random_llama  # noqa: PLC0415 - it opens the device

        folder, fields = asked.write_model
        write_random_llama(Path(folder), never_stops=True, **json.loads(fields))
        return
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        try:
            found = measure(asked, Path(folder))
        finally:
            if asked.logs:
                shutil.copytree(Path(folder) / "logs", asked.logs, dirs_exist_ok=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
