"""What a real worker writes of its recent past, and tells of a job while it runs: one worker for the module."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.job import State
from scheduler.tide import Entry, Mark
from scheduler.tides import BEFORE_ALL, read_tides
from tests.running import RunningWorker, Site
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[RunningWorker]:
    """The module's worker."""
    with site.worker() as made:
        yield made


def entries(site: Site, worker: RunningWorker) -> list[Entry]:
    """Everything that it wrote."""
    return [each for _, each in read_tides(site.connection, {worker.name: BEFORE_ALL})[worker.name]]


def marks(site: Site, worker: RunningWorker, job_id: str | None = None) -> list[Mark]:
    """What it marked, of a job or of none."""
    return [mark for entry in entries(site, worker) for mark in entry.marks if mark.job_id == job_id]


def test_a_jobs_memory_is_seen_to_come_and_go(site: Site, worker: RunningWorker) -> None:
    """Points while it runs and after, each of which adds up to the budget; a mark as it begins and as it ends."""
    job_id = site.submit(max_tokens=3000)
    site.until_tokens([job_id], 5)

    def progress() -> dict[str, Any]:
        view: dict[str, Any] = site.lifecycle.view(site.get(job_id))
        return view["progress"] or {}

    wait_until(lambda: progress().get("tokens_per_second"), "the worker tells its speed")
    told = progress()
    assert told["prompt_tokens"] == told["prompt_tokens_computed"] == 5
    assert told["first_token_seconds"] > 0
    wait_until(lambda: progress()["completion_tokens"] > told["completion_tokens"], "and how it goes on")
    site.lifecycle.cancel(job_id)
    rec = site.ended(job_id)
    assert rec.state is State.CANCELLED
    ended = site.lifecycle.view(rec)["progress"]
    assert ended["completion_tokens"] >= told["completion_tokens"]
    assert ended["first_token_seconds"] == told["first_token_seconds"]
    wait_until(lambda: len(marks(site, worker, job_id)) > 1, "both its marks")
    begun, over = marks(site, worker, job_id)
    assert (begun.kind, over.kind) == ("admitted", "ended")
    assert begun.bytes and "5 tokens of prompt" in begun.words
    assert "cancelled" in over.words
    points = [entry.point for entry in entries(site, worker)]
    assert max(point.running for point in points) == 1
    for point in points:
        parts = (point.weights_bytes, point.reserved_bytes, point.cache_bytes, point.headroom_bytes)
        assert sum(parts) == point.budget_bytes
    assert points[-1].reserved_bytes < max(point.reserved_bytes for point in points)


def test_an_engines_death_is_marked(site: Site, worker: RunningWorker) -> None:
    """How it ended, and under how many jobs; the one that was alone is named, and goes on."""
    job_id = site.submit(max_tokens=1200)
    site.until_tokens([job_id], 5)
    os.kill(worker.engine_pid, signal.SIGKILL)
    assert site.ended(job_id, 60).state is State.INCOMPLETE
    wait_until(lambda: len(marks(site, worker, job_id)) > 3, "its end is marked")
    (death,) = (mark for mark in marks(site, worker) if mark.kind == "engine_died")
    assert "SIGKILL" in death.words
    assert [mark.kind for mark in marks(site, worker, job_id)] == [
        "admitted",
        "out_of_memory",
        "admitted",
        "ended",
    ]
    first, second, last = site.lifecycle.view(site.get(job_id)), *marks(site, worker, job_id)[2:]
    assert "attempt 2" in second.words
    assert "1,200 tokens" in last.words
    assert first["progress"]["completion_tokens"] == 1200
