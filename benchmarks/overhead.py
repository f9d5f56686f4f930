"""What the queue, the process border and HTTP cost: ``python -m benchmarks.overhead``.

Prints one JSON line last. Times are medians in milliseconds, on one machine over loopback, with a tiny
random-weight model whose step takes well under a millisecond:

``submit_p50_ms``       POST /v1/jobs until its answer
``pickup_p50_ms``       that answer until the engine has counted the job's prompt; the worker was idle
``delta_lag_p50_ms``    the engine has a token until the client of the stream has its text
``idle_cpu_percent``    of one core, API, worker and engine together, while nothing is asked
``jobs_per_s``          one-token jobs through a worker, beside a no-op job through RQ's SimpleWorker
``submit_ratio``        jobs accepted a second by POST /v1/jobs over those by a bare Flask view that enqueues one
                        RQ job, and what else :mod:`benchmarks.submission` tells
``load_ratio`` …        what the start takes, and for how long a prompt keeps a stream waiting: what
                        :mod:`benchmarks.startup` tells
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from benchmarks import startup, submission
from benchmarks.arguments import parser
from benchmarks.pages import DOCS, machine, replace_part
from benchmarks.random_models import write_random_llama
from benchmarks.stack import Stack, stack, wait_until
from scheduler.events import read_events
from scheduler.request import read_request
from tidegate.sse import EventReader

MODEL = "tiny"
PICKUPS = 60
STREAM_TOKENS = 200
BATCH_JOBS = 400
IDLE_SECONDS = 10.0


def main() -> None:
    """Measure and print."""
    options = parser("overhead", __doc__)
    options.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_random_llama(Path(folder) / MODEL, never_stops=True)
        with stack({MODEL: model}) as running, httpx.Client(base_url=running.url, trust_env=False) as http:
            _run_one(running)
            submits, pickups = _pickups(running, http)
            figures = {
                "submit_p50_ms": _ms(submits),
                "pickup_p50_ms": _ms(pickups),
                "delta_lag_p50_ms": _ms(_delta_lags(running, http)),
                "idle_cpu_percent": round(_idle_cpu(running), 2),
                "jobs_per_s": round(_jobs_per_second(running), 1),
                "bare_rq_jobs_per_s": round(_bare_rq_jobs_per_second(running), 1),
            }
    figures |= submission.measure() | startup.measure()
    if asked.write_docs:
        told = "\n".join(f"| `{name}` | {figure:,} |" for name, figure in figures.items())
        text = f"| figure | value |\n|---|---:|\n{told}\n\nMade on {machine()}."
        replace_part(DOCS / "performance.md", "overhead", text)
    print(json.dumps(figures))


def _body(max_tokens: int) -> dict[str, object]:
    return {"model": MODEL, "prompt": "The tide comes in.", "max_tokens": max_tokens, "temperature": 0}


def _run_one(running: Stack) -> None:
    rec = running.lifecycle.submit(read_request(_body(8)))
    _wait_for(running, rec.id)


def _wait_for(running: Stack, job_id: str) -> None:
    wait_until(lambda: running.lifecycle.get(job_id).outcome is not None, "answer")


def _pickups(running: Stack, http: httpx.Client) -> tuple[list[float], list[float]]:
    """Seconds of submission, and from its answer to the engine."""
    submits: list[float] = []
    pickups: list[float] = []
    for _ in range(PICKUPS):
        started = time.time()
        job = http.post("/v1/jobs", json=_body(1)).raise_for_status().json()["id"]
        accepted = time.time()
        _wait_for(running, job)
        granted = running.lifecycle.get(job).meta.granted_at
        assert granted is not None
        submits.append(accepted - started)
        pickups.append(max(0.0, granted - accepted))
    return submits, pickups


def _delta_lags(running: Stack, http: httpx.Client) -> list[float]:
    """Seconds from the engine's having a token to the client's reading it."""
    job = http.post("/v1/jobs", json=_body(STREAM_TOKENS)).json()["id"]
    seen: dict[int, float] = {}
    with http.stream("GET", f"/v1/jobs/{job}/stream") as response:
        reader = EventReader()
        for chunk in response.iter_raw():
            moment = time.time()
            for event in reader.feed(chunk):
                if event.name == "delta" and event.id:
                    seen[int(event.id)] = moment
    made = {
        event.number: event.data["at"] for event in read_events(running.connection, job) if "at" in event.data
    }
    return [seen[number] - at for number, at in made.items() if number in seen]


def _idle_cpu(running: Stack) -> float:
    """Percent of one core that every process of the stack takes while nothing is asked."""
    roots = [psutil.Process(child.pid) for child in (running.api, *running.workers)]
    processes = [process for root in roots for process in (root, *root.children(recursive=True))]
    before = sum(sum(process.cpu_times()[:2]) for process in processes)
    time.sleep(IDLE_SECONDS)
    after = sum(sum(process.cpu_times()[:2]) for process in processes)
    return 100 * (after - before) / IDLE_SECONDS


def _jobs_per_second(running: Stack) -> float:
    """One-token jobs a second, from the first one's start to the last one's end."""
    ids = [running.lifecycle.submit(read_request(_body(1))).id for _ in range(BATCH_JOBS)]
    wait_until(lambda: running.lifecycle.queue.waiting()[0] == 0, "empty queue")
    _wait_for(running, ids[-1])
    metas = [rec.meta for rec in running.lifecycle.queue.fetch_many(ids)]
    return len(ids) / (max(m.ended_at or 0.0 for m in metas) - min(m.started_at or 0.0 for m in metas))


def _bare_rq_jobs_per_second(running: Stack) -> float:
    """No-op jobs a second through RQ's SimpleWorker on the same server."""
    connection = redis.Redis.from_url(running.settings.server_url)
    queue = Queue("bare", connection=connection, serializer=JSONSerializer)
    jobs = [queue.enqueue("math.sqrt", 4.0, job_id=f"bare{n}") for n in range(BATCH_JOBS)]
    command = [sys.executable, "-m", "rq.cli", "worker", "-w", "rq.SimpleWorker", "--burst", "--quiet"]
    command += ["--serializer", "json", "--url", running.settings.server_url, "bare"]
    subprocess.run(command, check=True, capture_output=True)
    done = Job.fetch_many([job.id for job in jobs], connection=connection, serializer=JSONSerializer)
    starts = [job.started_at for job in done if job and job.started_at]
    ends = [job.ended_at for job in done if job and job.ended_at]
    assert len(ends) == BATCH_JOBS
    return BATCH_JOBS / (max(ends) - min(starts)).total_seconds()


def _ms(seconds: list[float]) -> float:
    return round(1000 * statistics.median(seconds), 3)


if __name__ == "__main__":
    main()
