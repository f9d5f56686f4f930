"""A thousand open streams on one API process: ``python -m benchmarks.streams``.

The API runs as users start it (gunicorn with gevent, one process, beside the embedded server). 1,000 jobs are
submitted to it over HTTP and held by 32 pretended workers, which claim as workers do and write each step of a
whole batch of up to 32 jobs by the worker's own verb; only the tokens are made up. Each job has one client, which
reads its stream over loopback; all clients are in a process of their own (:mod:`benchmarks.stream_readers`).

Every stream gets five deltas of two words a second, 5,000 events a second in all: each worker steps five times a
second, evenly spread. The figures are taken while this goes on:

``streams``             open at once
``p50_delta_lag_ms``    from the worker's writing a delta, which says when in its ``at``, to the client's having
``p99_delta_lag_ms``    read the event's last byte; ``max_delta_lag_ms`` is the worst of all
``deltas_per_s``        written, all streams together
``api_cpu_percent``     of one core, the API's process
``api_us_per_event``    the API's CPU time over the events that the clients read meanwhile
``bytes_per_stream``    by which the API's own memory (USS) grew from no stream to all of them, a stream
``lost``                events of the jobs' logs that the streams lacked, repeated or brought out of order, and
                        streams that did not end with ``[DONE]``

Prints one JSON line last.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.arguments import count, parser, positive
from benchmarks.claim_race import report_of
from benchmarks.claimer import MODEL, Claimer
from benchmarks.pages import DOCS, machine, replace_part
from benchmarks.points import quantile
from benchmarks.stack import Stack, stack, wait_until
from benchmarks.stream_readers import MOST_SECONDS, Read, read_streams
from scheduler import fleet
from scheduler.events import Kind, read_events
from scheduler.holding import Held, Progress
from scheduler.job import State
from scheduler.outcome import Outcome

STREAMS: Final = 1000
BATCH: Final = 32
DELTAS_PER_SECOND: Final = 5.0
SECONDS: Final = 20.0

_BODY: Final = {"model": MODEL, "prompt": "The tide comes in. " * 6, "max_tokens": 512}
_SAID: Final = {"text": "the tide ", "tokens": [1, 17, 4711]}
_USAGE: Final = {"prompt_tokens": 32, "completion_tokens": 512, "total_tokens": 544}
_DONE: Final = Outcome(State.COMPLETED, {"text": "the tide ", "finish_reason": "length", "usage": _USAGE})
_LEASE_SECONDS: Final = 3600.0  # nobody here takes over from anybody
_SETTLE_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 0.1
_SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Load:
    """What the workers wrote while the figures were taken, and what that took of the API's CPU time."""

    deltas: int
    seconds: float
    cpu_seconds: float


def main() -> None:
    """Measure and print."""
    options = parser("streams", __doc__)
    options.add_argument("--streams", type=count, default=STREAMS, help="open at once")
    options.add_argument(
        "--rate", type=positive, default=DELTAS_PER_SECOND, help="deltas a second and stream"
    )
    options.add_argument("--seconds", type=positive, default=SECONDS, help="for how long they are written")
    options.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    asked = options.parse_args()
    with stack({MODEL: Path("nowhere")}, workers=0) as running:
        figures, lags = measure(running, asked.streams, asked.rate, asked.seconds)
    if asked.write_docs:
        write_docs(figures, lags, DOCS)
    for name, figure in figures.items():
        print(f"{name:>18} {figure:,}")
    print(json.dumps(figures))


def measure(running: Stack, streams: int, rate: float, seconds: float) -> tuple[dict[str, Any], list[float]]:
    """Open the streams, write to them, and compare what was written with what was read.

    Args:
        running: an API and its server, without workers.
        streams: how many.
        rate: deltas a second for each.
        seconds: for how long.

    Returns:
        The figures, and the lag of each delta in seconds.
    """
    workers = [Claimer(running.settings.server_url, f"w{at}") for at in range(-(-streams // BATCH))]
    for at, worker in enumerate(workers):
        fleet.report(worker.connection, report_of(f"w{at}"), _LEASE_SECONDS)
    ids = _submit(running, streams)
    batches = [_claim(worker, min(BATCH, streams - at * BATCH)) for at, worker in enumerate(workers)]
    api = psutil.Process(running.api.pid).children()[0]  # gunicorn's one worker
    time.sleep(_SETTLE_SECONDS)
    idle_bytes = api.memory_full_info().uss
    ours, theirs = _SPAWN.Pipe()
    where = urlsplit(running.url)
    readers = _SPAWN.Process(target=read_streams, args=(where.hostname, where.port, ids, theirs), daemon=True)
    readers.start()
    theirs.close()
    opened = _receive(ours)
    time.sleep(_SETTLE_SECONDS)
    open_bytes = api.memory_full_info().uss
    load = _write(workers, batches, api, rate, seconds)
    for worker, batch in zip(workers, batches, strict=True):
        _insist(worker.holding.write([Progress(held, outcome=_DONE) for held in batch]))
    reads = dict(zip(ids, _receive(ours), strict=True))
    readers.join(MOST_SECONDS)
    lags, lost = _compare(running, reads)
    for worker in workers:
        worker.connection.close()
    return {
        "streams": opened,
        "p50_delta_lag_ms": _ms(lags, 0.5),
        "p99_delta_lag_ms": _ms(lags, 0.99),
        "max_delta_lag_ms": _ms(lags, 1.0),
        "deltas_per_s": round(load.deltas / load.seconds),
        "api_cpu_percent": round(100 * load.cpu_seconds / load.seconds, 1),
        "api_us_per_event": round(1e6 * load.cpu_seconds / load.deltas, 1),
        "bytes_per_stream": (open_bytes - idle_bytes) // streams,
        "lost": lost,
    }, lags


def write_docs(figures: Mapping[str, Any], lags: Sequence[float], docs: Path) -> None:
    """Put the figures and the picture where readers find them."""
    from benchmarks.plots import plot_lags  # noqa: PLC0415 - a run without a picture needs no matplotlib

    title = f"{figures['streams']:,} streams, {figures['deltas_per_s']:,.0f} events/s, one API process"
    plot_lags(lags, docs / "streams.svg", title)
    told = ", ".join(f"`{name}` {figure:,}" for name, figure in figures.items())
    text = f"![The share of deltas that came within a time](streams.svg)\n\n{told}.\n\nMade on {machine()}."
    replace_part(docs / "performance.md", "streams", text)


def _submit(running: Stack, streams: int) -> list[str]:
    with httpx.Client(base_url=running.url, trust_env=False, timeout=MOST_SECONDS) as http:
        return [_submit_one(http) for _ in range(streams)]


def _submit_one(http: httpx.Client) -> str:
    """A job's id; asked for again where the machine is so busy that the server did not answer in time."""
    while (answer := http.post("/v1/jobs", json=_BODY)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
        time.sleep(_AGAIN_SECONDS)
    return str(answer.raise_for_status().json()["id"])


def _claim(worker: Claimer, count: int) -> list[Held]:
    held = [worker.claim(fresh=not at) for at in range(count)]
    if None in held:
        raise RuntimeError("a job was not to be claimed")
    return [each for each in held if each is not None]


def _write(
    workers: Sequence[Claimer],
    batches: Sequence[list[Held]],
    api: psutil.Process,
    rate: float,
    seconds: float,
) -> Load:
    """Write steps, evenly spread over the workers; late ones are not left out."""
    steps = round(seconds * rate) * len(workers)
    deltas, before, started = 0, _cpu_seconds(api), time.monotonic()
    for step in range(steps):
        time.sleep(max(0.0, started + step / (rate * len(workers)) - time.monotonic()))
        at = step % len(workers)
        said = _SAID | {"at": time.time()}
        _insist(workers[at].holding.write([Progress(held, dict(said)) for held in batches[at]]))
        deltas += len(batches[at])
    time.sleep(max(0.0, started + seconds - time.monotonic()))
    return Load(deltas, time.monotonic() - started, _cpu_seconds(api) - before)


def _insist(lost: Sequence[Held]) -> None:
    if lost:
        raise RuntimeError(f"{len(lost)} jobs were lost to nobody")


def _compare(running: Stack, reads: dict[str, Read]) -> tuple[list[float], int]:
    """The lags of all deltas in seconds, and how much is not as the logs have it."""
    lags: list[float] = []
    lost = 0
    for job_id, read in reads.items():
        logged = read_events(running.connection, job_id)
        missing = len(logged) - sum(
            (event.number, event.kind.value) == (number, name)
            for event, (number, name, _) in zip(logged, read.events, strict=False)
        )
        lost += missing + max(0, len(read.events) - len(logged)) + (not read.done)
        moments = {number: moment for number, _, moment in read.events}
        lags += [
            moments[event.number] - event.data["at"]
            for event in logged
            if event.kind is Kind.DELTA and event.number in moments
        ]
    return lags, lost


def _receive(pipe: Any) -> Any:
    wait_until(pipe.poll, "word of the readers", MOST_SECONDS)
    return pipe.recv()


def _cpu_seconds(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def _ms(seconds: Sequence[float], share: float) -> float:
    return round(1000 * quantile(seconds, share), 1)


if __name__ == "__main__":
    main()
