"""What a claim costs, however many jobs wait: ``python -m benchmarks.claim``.

A worker's own claim, without an engine, on a Valkey started for it. First its latency while 10, 1,000 and
100,000 jobs wait: every claim looks at the queues anew, as that of a worker that was just woken does; the three
depths take turns, so that all of them meet the same machine. Each job that is taken is replaced. With one
owner's jobs waiting, then with a second owner's besides: half as many, put in behind the first's, so that the
turns alternate between the list's front and a place far from both its ends. Then 32
processes claim and end jobs of two owners from one server; then once more, while some of them are killed between
claim and end or at any moment (:mod:`benchmarks.claim_race`).

Prints a table, and one JSON line last:

``ratio_100k_to_10``   median latency at 100,000 over that at 10: the worse of those with one owner and with two,
                       which are beside it as ``…_one_owner`` and ``…_two_owners``
``latency_ms``         by owners and depth: p50 and p99
``claims_per_s``       by 32 processes together, each job ended too
``claimed_twice``      jobs that two attempts held at once, or one attempt was given twice, or that ended twice
``lost``               jobs that neither ended nor wait; ``left`` ones still wait, where the time was up before
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.arguments import parser
from benchmarks.claim_race import PROCESSES, race
from benchmarks.claimer import ANN, BOB, Claimer, put_in
from scheduler.settings import load
from tidegate.embedded import embedded_server

DEPTHS: Final = (10, 1_000, 100_000)
ROUNDS: Final = 10
CLAIMS_PER_ROUND: Final = 30
RACE_JOBS: Final = 1_500
KILL_JOBS: Final = 1_000
KILLED: Final = 16


def main() -> None:
    """Measure and print."""
    parser("claim", __doc__).parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-") as folder,
        embedded_server(load(data_dir=Path(folder))) as url,
    ):
        latency = _latencies(url)
        race_url = f"{url}?db={len(DEPTHS)}"
        calm = race(race_url, RACE_JOBS, 0)
        rough = race(race_url, KILL_JOBS, KILLED)
    ratios = {owners: round(p50s[DEPTHS[-1]][0] / p50s[DEPTHS[0]][0], 2) for owners, p50s in latency.items()}
    figures = {
        "ratio_100k_to_10": max(ratios.values()),
        "ratio_100k_to_10_one_owner": ratios["one"],
        "ratio_100k_to_10_two_owners": ratios["two"],
        "claimed_twice": calm.claimed_twice + rough.claimed_twice,
        "lost": calm.lost + rough.lost,
        "claims_per_s": round(calm.claims / calm.seconds, 1),
        "latency_ms": {
            owners: {str(depth): {"p50": p50, "p99": p99} for depth, (p50, p99) in depths.items()}
            for owners, depths in latency.items()
        },
        "processes": PROCESSES,
        "jobs": RACE_JOBS + KILL_JOBS,
        "left": calm.left + rough.left,
        "killed": rough.killed,
        "recovered": rough.recovered,
    }
    _show(latency)
    print(json.dumps(figures))


def _latencies(url: str) -> dict[str, dict[int, tuple[float, float]]]:
    """By owners and depth, the median and the 99th of a hundred claims' latencies, in milliseconds."""
    claimers = {depth: Claimer(f"{url}?db={at}", "bench") for at, depth in enumerate(DEPTHS)}
    measured = {}
    for owners, owner in (("one", ANN), ("two", BOB)):
        for depth, claimer in claimers.items():
            put_in(claimer.queue, depth if owner == ANN else depth // 2, [owner])
        seconds: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
        for at in range(ROUNDS + 1):
            for depth, claimer in claimers.items():
                spent = [claim_once(claimer) for _ in range(CLAIMS_PER_ROUND)]
                seconds[depth] += spent if at else ()  # the first round warms up
        measured[owners] = {depth: _milliseconds(each) for depth, each in seconds.items()}
    for claimer in claimers.values():
        claimer.connection.flushdb()
        claimer.connection.close()
    return measured


def claim_once(claimer: Claimer) -> float:
    """Claim a job, end it, and put another of its owner's in; the seconds of the claim."""
    started = time.perf_counter()
    held = claimer.claim(fresh=True)
    spent = time.perf_counter() - started
    if held is None or not claimer.end(held):
        raise RuntimeError("nothing was claimed though jobs wait")
    put_in(claimer.queue, 1, [held.rec.meta.owner], held.rec.meta.priority)
    return spent


def _milliseconds(seconds: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return round(cuts[49] * 1000, 3), round(cuts[98] * 1000, 3)


def _show(latency: dict[str, dict[int, tuple[float, float]]]) -> None:
    print(f"{'owners':>8} {'jobs each':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for owners, depths in latency.items():
        for depth, (p50, p99) in depths.items():
            print(f"{owners:>8} {depth:>10,} {p50:>8.3f} {p99:>8.3f}")


if __name__ == "__main__":
    main()
