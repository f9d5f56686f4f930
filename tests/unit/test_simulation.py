"""The simulated Macs: what is measured on them is the admission's own doing, and their memory is never overdrawn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.admission import POLICIES
from benchmarks.machines import MACHINES
from benchmarks.simulated_worker import MAX_PASSES, Outcome, SimulatedWorker
from benchmarks.workload import Arrival, draw_trace, read_trace, requests

SMALL = MACHINES["16 GB, 8B-4bit"]


def play(policy: str, *, jobs: int = 32, per_second: float = 1.0, target: float = math.inf) -> Outcome:
    """A short workload on the smallest machine."""
    asked = requests(draw_trace()[:jobs], 1, per_second)
    return SimulatedWorker(SMALL, POLICIES[policy], target).run(asked)


@pytest.mark.parametrize("policy", ["one-at-a-time", "worst_case", "learned", "clairvoyant"])
def test_every_job_that_was_taken_ends_within_the_device(policy: str) -> None:
    """None is lost, none is passed too often, and no step takes more than the device has."""
    outcome = play(policy)
    taken = [fate for fate in outcome.fates if not fate.refused]
    assert all(fate.request.arrived_at <= fate.started_at < fate.ended_at < math.inf for fate in taken)
    assert len(taken) > len(outcome.fates) / 2
    assert (outcome.oom, outcome.max_passes <= MAX_PASSES) == (0, True)


def test_who_knows_every_length_is_done_before_who_reserves_everything() -> None:
    """And one at a time takes longest: the machine's memory is what they differ in."""
    seconds = [play(policy).seconds for policy in ("clairvoyant", "worst_case", "one-at-a-time")]
    assert seconds == sorted(set(seconds))


def test_who_would_wait_too_long_is_refused() -> None:
    """Behind more work than the target nobody is taken; without one only what never fits is refused."""
    bound, free = (play("learned", jobs=60, per_second=0.3, target=t).fates for t in (30.0, math.inf))
    assert sum(fate.refused for fate in bound) > sum(fate.refused for fate in free)
    assert all(fate.request.prompt_tokens + fate.request.max_tokens > 30_000 for fate in free if fate.refused)


def test_a_trace_is_read_as_it_is_published(tmp_path: Path) -> None:
    """Seven digits of a second; in the order of arrival; other columns are refused by name."""
    path = tmp_path / "trace.csv"
    lines = ["2023-11-16 18:15:50.9951690,396,109", "2023-11-16 18:15:46.9951690,374,0"]
    lines.append("2023-11-16 18:15:47+00:00,5,6")  # a later year's, on the very second
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    found = [Arrival(0.0, 374, 1), Arrival(0.004831, 5, 6), Arrival(4.0, 396, 109)]
    assert read_trace(path) == found
    path.write_text("TIMESTAMP,Prompt\n2023-11-16 18:15:46.6805900,4\n")
    with pytest.raises(ValueError, match="no column 'ContextTokens'"):
        read_trace(path)


def test_a_workload_comes_at_the_rate_that_is_asked_for() -> None:
    """Every second line of a trace, stretched to so many a second, the same each time."""
    asked = requests(draw_trace()[:400], 2, 4.0)
    assert len(asked) == 200
    assert asked[-1].arrived_at == pytest.approx(200 / 4.0)
    again = requests(draw_trace()[:400], 2, 4.0)
    assert [(each.max_tokens, each.priority) for each in asked] == [(e.max_tokens, e.priority) for e in again]
