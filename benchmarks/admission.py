"""How much the admission gets done: ``python -m benchmarks.admission [--trace FILE] [--every N]``.

The very code that decides on workers (:mod:`scheduler.admission`, the ledger, the plans, the guard) over a virtual
clock, on Macs of four sizes, against the arrivals and lengths of a real service (:mod:`benchmarks.workload`), at
rates from half to twice what each machine can do: what it does with every length known and never idle. Prints a
table and one JSON line last.

goodput    tokens a second of jobs that ended within 10 times what they take unloaded, and 30 s
rows       jobs in the engine on average, and the share of their caches' slots that is padding
sheds      jobs that the guard put back, because answers became longer than was reserved
recomputed tokens computed a second time, after a shed or a preemption
oom        steps that took more than the device has

A job that would wait behind more than :data:`TARGET_WAIT_SECONDS` of work is refused, under every policy alike.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.arguments import parser
from benchmarks.machines import MACHINES
from benchmarks.plots import plot_goodput
from benchmarks.simulated_worker import Fate, Outcome, Policy, SimulatedWorker
from benchmarks.simulation import Machine
from benchmarks.workload import Arrival, draw_trace, find_trace, read_trace, requests
from scheduler.foresight import Row
from scheduler.job import PRIORITIES
from scheduler.reserving import Reserving
from scheduler.settings import Settings

LOADS: Final = (0.5, 1.0, 1.5, 2.0)
TARGET_WAIT_SECONDS: Final = 30.0
PLAYED: Final = 1_200
"""Requests at each point, about: a longer trace is thinned, so that all of its hours are played."""
_SATURATED_JOBS: Final = 400
_DEADLINE_TIMES, _DEADLINE_SECONDS = 10.0, 30.0

_LEARNED: Final = Reserving("learned", Settings.model_fields["reserve_quantile"].default)

POLICIES: Final = {
    policy.name: policy
    for policy in (
        Policy("one-at-a-time", lambda request, *_: request.max_tokens, max_batch=1),
        Policy("fixed slots", lambda request, *_: request.max_tokens, max_batch=4),
        Policy("worst_case", lambda request, *_: request.max_tokens),
        Policy(
            "learned",
            lambda request, made, answers: _LEARNED.answer_tokens(
                Row(request.prompt_tokens, request.max_tokens), answers, 0, made
            ),
        ),
        Policy("clairvoyant", lambda request, *_: request.answer_tokens),
    )
}


@dataclass(frozen=True, slots=True)
class Figures:
    """A row of the table; waits in seconds, by class."""

    machine: str
    load: float
    policy: str
    goodput: float
    met_share: float
    refused_share: float
    rows: float
    padding_share: float
    wait_p50: dict[str, float]
    wait_p99: dict[str, float]
    sheds: int
    preemptions: int
    recomputed_tokens: int
    oom: int
    max_passes: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and print."""
    options = parser("admission", __doc__)
    options.add_argument("--trace", type=Path, help="a CSV of TIMESTAMP, ContextTokens, GeneratedTokens")
    options.add_argument("--every", type=int, help="play every N-th request (1: all of them)")
    options.add_argument("--plot", type=Path, help="where to draw goodput against load (SVG)")
    chosen = options.parse_args(arguments)
    path = chosen.trace or find_trace()
    trace = read_trace(path) if path else draw_trace()
    every = chosen.every or max(1, len(trace) // PLAYED)
    source = path.name if path else "no trace at hand: drawn with the published trace's means and medians"
    print(f"{len(trace):,} requests ({source}), one in {every} of them at each load\n")
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        rates = pool.starmap(_capacity, [(name, trace, every) for name in MACHINES])
        points = [
            (name, rate, load, policy, trace, every)
            for name, rate in zip(MACHINES, rates, strict=True)
            for load in LOADS
            for policy in POLICIES
        ]
        print(_HEADING)
        figures = []
        for each in pool.imap(_play, points):
            figures.append(each)
            print(_line(each), flush=True)
    if chosen.plot:
        plot_goodput([asdict(each) for each in figures], chosen.plot)
    print(json.dumps(_summary(figures) | {"requests": len(trace[::every]), "trace": source}))


def _capacity(name: str, trace: Sequence[Arrival], every: int) -> float:
    """Requests a second that a machine can do: every length known, and always work enough."""
    asked = requests(trace, max(every, len(trace) // _SATURATED_JOBS), 1e6)
    outcome = SimulatedWorker(MACHINES[name], POLICIES["clairvoyant"], math.inf).run(asked)
    return sum(not fate.refused for fate in outcome.fates) / outcome.seconds


def _play(point: tuple[str, float, float, str, Sequence[Arrival], int]) -> Figures:
    name, rate, load, policy, trace, every = point
    machine = MACHINES[name]
    outcome = SimulatedWorker(machine, POLICIES[policy], TARGET_WAIT_SECONDS).run(
        requests(trace, every, rate * load)
    )
    met = [fate for fate in outcome.fates if _met(machine, fate)]
    return Figures(
        machine=name,
        load=load,
        policy=policy,
        goodput=round(sum(fate.request.answer_tokens for fate in met) / outcome.seconds, 3),
        met_share=round(len(met) / len(outcome.fates), 4),
        refused_share=round(sum(fate.refused for fate in outcome.fates) / len(outcome.fates), 4),
        rows=round(outcome.rows, 2),
        padding_share=round(outcome.padding_share, 4),
        wait_p50=_waits(outcome, 0.5),
        wait_p99=_waits(outcome, 0.99),
        sheds=outcome.sheds,
        preemptions=outcome.preemptions,
        recomputed_tokens=outcome.recomputed_tokens,
        oom=outcome.oom,
        max_passes=outcome.max_passes,
    )


def _met(machine: Machine, fate: Fate) -> bool:
    """Whether a job ended in time; refused ones did not."""
    asked = fate.request
    unloaded = machine.unloaded_seconds(asked.prompt_tokens, asked.answer_tokens)
    return fate.ended_at - asked.arrived_at <= _DEADLINE_TIMES * unloaded + _DEADLINE_SECONDS


def _waits(outcome: Outcome, share: float) -> dict[str, float]:
    """That share of each class waited no longer, refused ones not counted."""
    waits: dict[str, float] = {}
    for name in PRIORITIES:
        mine = sorted(
            fate.started_at - fate.request.arrived_at
            for fate in outcome.fates
            if fate.request.priority == name and not fate.refused
        )
        waits[name] = round(mine[min(len(mine) - 1, int(share * len(mine)))], 2) if mine else 0.0
    return waits


_HEADING: Final = (
    f"{'machine':<18}{'load':>5}  {'policy':<14}{'goodput':>8}{'met':>6}{'refused':>8}"
    f"{'rows':>6}{'padding':>8}{'p50 wait':>20}{'p99 wait':>20}{'sheds':>6}{'preempt':>8}{'again':>9}{'oom':>4}{'passes':>7}"
)


def _line(row: Figures) -> str:
    waits = ["/".join(f"{wait[name]:.0f}" for name in PRIORITIES) for wait in (row.wait_p50, row.wait_p99)]
    return (
        f"{row.machine:<18}{row.load:>5}  {row.policy:<14}{row.goodput:>8.2f}{row.met_share:>6.0%}"
        f"{row.refused_share:>8.0%}{row.rows:>6.1f}{row.padding_share:>8.0%}{waits[0]:>20}{waits[1]:>20}{row.sheds:>6}{row.preemptions:>8}"
        f"{row.recomputed_tokens:>9}{row.oom:>4}{row.max_passes:>7}"
    )


def _summary(figures: Sequence[Figures]) -> dict[str, object]:
    """Ratios are geometric means over the machines and the loads of 1 and more."""
    goodput = {(each.machine, each.load, each.policy): each.goodput for each in figures}
    ratios = {
        other: {
            name: round(
                statistics.geometric_mean(
                    goodput[name, load, "learned"] / max(1e-9, goodput[name, load, other])
                    for load in LOADS
                    if load >= 1
                ),
                4,
            )
            for name in MACHINES
        }
        for other in POLICIES
    }
    own = [each for each in figures if each.policy == "learned"]
    return {
        "learned_over_worst_case": round(statistics.geometric_mean(ratios["worst_case"].values()), 4),
        "learned_over_clairvoyant": round(statistics.geometric_mean(ratios["clairvoyant"].values()), 4),
        "learned_over_fixed_slots": round(statistics.geometric_mean(ratios["fixed slots"].values()), 4),
        "learned_over_one_at_a_time": round(statistics.geometric_mean(ratios["one-at-a-time"].values()), 4),
        "padding_share": round(statistics.mean(each.padding_share for each in own), 4),
        "by_machine": {"worst_case": ratios["worst_case"], "clairvoyant": ratios["clairvoyant"]},
        "sheds": sum(each.sheds for each in own),
        "max_passes": max(each.max_passes for each in figures),
        "oom": sum(each.oom for each in figures),
    }


if __name__ == "__main__":
    main()
