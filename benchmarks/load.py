"""10,000 queued jobs and 1,000 open streams at once: ``python -m benchmarks.load``.

Two whole stacks run side by side, each a server and an API as users start them: in one nothing waits, in the other
10,000 jobs. The same questions are asked of both in turns, so that both meet the same
machine: what is compared is how much dearer an answer is where 10,000 jobs wait. Then 1,000 streams are opened on the
full one and written to (:mod:`benchmarks.streams`), while a client goes on to submit; then a real worker, with an
engine and a small model of random weights, runs jobs of either queue for some seconds, and of it the memory is told.

Prints a table of the questions, and one JSON line last:

``queued``, ``streams``      jobs that waited, and streams that were open, at once
``…_ratio``                  of each question, the median of its time on the full queue over that on the empty one;
                             ``latency_ms`` has p50 and p99 of both, and what CPU time of the API's it took
``claim_ratio``              likewise, of a worker's claim, which looks at the queues anew
``p99_delta_lag_ms``         of the streams, from the worker's write to the client's reading
``submit_beside_streams_ms`` p50 and p99 of what was submitted while they were written to
``peak_bytes``               resident, of the API, the queue's server, the worker and its engine, with the full queue
``bytes_per_queued_job``     by which each grew from the empty queue to the full one, a job
``refused``                  submissions that were told to come again (503): none, unless the machine is busy
``lost``                     jobs that were accepted and that neither ended nor wait; and what the streams lacked
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import streams
from benchmarks.arguments import count, parser, positive
from benchmarks.asker import Asker
from benchmarks.claim import claim_once
from benchmarks.claim_race import report_of
from benchmarks.claimer import MODEL, Claimer, put_in
from benchmarks.footprints import Footprints, engine_of
from benchmarks.load_side import Side
from benchmarks.points import quantile
from benchmarks.random_models import write_random_llama
from benchmarks.stack import stack, wait_until
from scheduler import fleet
from tidegate import programs
from tidegate.processes import Processes

JOBS: Final = 10_000
STREAMS: Final = 1_000
SUBMITTED: Final = 1_000
"""Of the jobs that wait, those that come over HTTP; the others come by the same swap, from this process."""

ROUNDS: Final = 10
ASKED_PER_ROUND: Final = 12

_LEASE_SECONDS: Final = 3600.0
_BOUNDS: Final[dict[str, Any]] = {
    "max_queued_jobs": 1 << 20,
    "max_queued_tokens": 1 << 40,
    "memory_budget": 256 << 20,
    "max_passes": 1 << 20,  # else each 64th of the streams' claims takes a job of class `batch`
}
_IDLE_SECONDS: Final = 0.05


def main() -> None:
    """Measure and print."""
    options = parser("load", __doc__)
    options.add_argument("--jobs", type=count, default=JOBS, help="that wait")
    options.add_argument("--streams", type=count, default=STREAMS, help="open at once")
    options.add_argument("--rate", type=positive, default=2.0, help="deltas a second and stream")
    options.add_argument("--rounds", type=count, default=ROUNDS, help="of the questions")
    options.add_argument("--seconds", type=positive, default=15.0, help="of the streams, and of each worker")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-load-") as folder:
        model = {MODEL: write_random_llama(Path(folder) / MODEL, never_stops=True)}
        with ExitStack() as stacks:
            sides = [_side(stacks, model) for _ in range(2)]
            figures = measure(sides[0], sides[1], asked)
    for name, row in figures["latency_ms"].items():
        print(f"{name:>18} {row}")
    print(json.dumps(figures))


def measure(calm: Side, full: Side, asked: argparse.Namespace) -> dict[str, Any]:
    """Fill one queue, ask both sides, open the streams, run the workers.

    Args:
        calm, full: a stack in which nothing waits, and another.
        asked: the command line's options.
    """
    jobs, seconds = asked.jobs, asked.seconds
    found = {"api": lambda: full.api, "server": lambda: full.server}
    with Footprints(found) as seen:
        for side in (calm, full):  # what the first answers cost is no job's
            for _ in range(50):
                side.submit()
            _delete_all(side)
        before = full.memory()
        full.asker.begin()
        filled = [full.submit() for _ in range(min(jobs, SUBMITTED))]
        full.put_in(jobs - len(filled))
        time.sleep(1.0)
        after = full.memory()
        latencies = ask_both(calm, full, asked.rounds)
        spent, (streamed, _) = _beside(
            full, lambda: streams.measure(full.running, asked.streams, asked.rate, seconds)
        )
    workers = {name: _run_worker(side, seconds) for name, side in (("calm", calm), ("full", full))}
    grown = {name: round((after[name] - before[name]) / jobs, 1) for name in after}
    for name in ("worker", "engine"):
        grown[name] = round((workers["full"][name] - workers["calm"][name]) / jobs, 1)
    return {
        "queued": jobs,
        "streams": streamed["streams"],
        **{f"{name}_ratio": row["ratio"] for name, row in latencies.items()},
        "p99_delta_lag_ms": streamed["p99_delta_lag_ms"],
        "deltas_per_s": streamed["deltas_per_s"],
        "submit_beside_streams_ms": _milliseconds(spent),
        "peak_bytes": {name: seen.peak_bytes(name) for name in found}
        | {name: workers["full"][name] for name in ("worker", "engine")},
        "bytes_per_queued_job": grown,
        "bytes_per_stream": streamed["bytes_per_stream"],
        "ended_by_worker": workers["full"]["ended"],
        "refused": calm.refused + full.refused,
        "lost": streamed["lost"] + calm.lost() + full.lost(),
        "latency_ms": latencies,
    }


def ask_both(calm: Side, full: Side, rounds: int) -> dict[str, dict[str, Any]]:
    """Of each question: p50 and p99 in ms, and CPU ms of the API's, on both sides; the ratio of medians."""
    for side in (calm, full):
        fleet.report(side.claimer.connection, report_of("bench"), _LEASE_SECONDS)
    questions: dict[str, Callable[[Side], float]] = {
        "submit": lambda side: side.submit(),
        "get": _asks(lambda job: f"/v1/jobs/{job}"),
        "list": _asks(lambda _: "/v1/jobs?limit=20"),
        "list_waiting": _asks(lambda _: "/v1/jobs?limit=20&status=queued"),
        "list_rare": _asks(lambda _: "/v1/jobs?limit=20&metadata[no]=such"),
        "capacity": _asks(lambda _: "/v1/capacity"),
        "delete": _delete_one,
    }
    for at in range(rounds + 1):
        for name, ask in questions.items():
            for side in (calm, full):
                side.asker.begin()
                cpu = sum(side.api.cpu_times()[:2])
                times = [ask(side) for _ in range(ASKED_PER_ROUND)]
                if at:  # the first round warms up
                    side.seconds.setdefault(name, []).extend(times)
                    spent = sum(side.api.cpu_times()[:2]) - cpu
                    side.cpu_seconds[name] = side.cpu_seconds.get(name, 0.0) + spent
    _claim_both(calm, full, rounds)
    return {name: _row(name, calm, full) for name in full.seconds}


def _side(stacks: ExitStack, model: dict[str, Path]) -> Side:
    running = stacks.enter_context(stack(model, workers=0, **_BOUNDS))
    side = Side(
        running, stacks.enter_context(Asker(running.url)), Claimer(running.settings.server_url, "bench")
    )
    stacks.callback(side.claimer.connection.close)
    fleet.report(side.claimer.connection, report_of("bench"), _LEASE_SECONDS)
    return side


def _asks(path: Callable[[str], str]) -> Callable[[Side], float]:
    def ask(side: Side) -> float:
        said = side.asker.ask("GET", path(next(iter(side.accepted))))
        said.insist(200)
        return said.seconds

    return ask


def _delete_one(side: Side) -> float:
    """Delete one of the jobs that the last question put in: the queue is as long as before."""
    job_id = max(side.accepted)  # ids sort by time
    said = side.asker.ask("DELETE", f"/v1/jobs/{job_id}")
    said.insist(200)
    side.accepted.remove(job_id)
    return said.seconds


def _delete_all(side: Side) -> None:
    while side.accepted:
        _delete_one(side)


def _claim_both(calm: Side, full: Side, rounds: int) -> None:
    """A worker's claims: on the calm side ten jobs wait."""
    put_in(calm.claimer.queue, 10, [""], "batch")
    for at in range(rounds + 1):
        for side in (calm, full):
            times = [claim_once(side.claimer) for _ in range(ASKED_PER_ROUND)]
            side.seconds.setdefault("claim", []).extend(times if at else ())


def _beside(side: Side, does: Callable[[], Any]) -> tuple[list[float], Any]:
    """Submit jobs, one after another, while something else is done; their seconds, and what that came to."""
    spent: list[float] = []
    done = threading.Event()

    def submit() -> None:
        with Asker(side.running.url) as asker:
            while not done.wait(_IDLE_SECONDS):
                spent.append(side.submit(asker))

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        return spent, does()
    finally:
        done.set()
        thread.join()


def _run_worker(side: Side, seconds: float) -> dict[str, int]:
    """A real worker on a queue, for some seconds; the most that it and its engine had resident, and jobs ended."""
    running, lifecycle = side.running, side.running.lifecycle
    side.asker.begin()
    while len(side.accepted) < ASKED_PER_ROUND:
        side.submit()
    with Processes(running.settings.data_dir / "worker-logs") as processes:
        child = processes.start(programs.worker(running.settings))
        found = {"worker": lambda: psutil.Process(child.pid), "engine": lambda: engine_of(child.pid)}
        waited = lifecycle.queue.waiting()[0]
        with Footprints(found, 0.2) as seen:
            wait_until(lambda: lifecycle.queue.waiting()[0] < waited, "job that the worker claims")
            time.sleep(seconds)
        ended = waited - lifecycle.queue.waiting()[0]
    return {"ended": ended, **{name: seen.peak_bytes(name) for name in found}}


def _row(name: str, calm: Side, full: Side) -> dict[str, Any]:
    row: dict[str, Any] = {
        "ratio": round(statistics.median(full.seconds[name]) / statistics.median(calm.seconds[name]), 2),
        "empty": _milliseconds(calm.seconds[name]),
        "full": _milliseconds(full.seconds[name]),
    }
    if name in full.cpu_seconds:
        for key, side in (("empty", calm), ("full", full)):
            row[key]["cpu"] = round(1000 * side.cpu_seconds[name] / len(side.seconds[name]), 2)
    return row


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return {name: round(1000 * quantile(seconds, share), 2) for name, share in (("p50", 0.5), ("p99", 0.99))}


if __name__ == "__main__":
    main()
