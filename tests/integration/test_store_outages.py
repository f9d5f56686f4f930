"""The queue's server is away for longer than leases last, and workers run jobs: they go on where they were."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from scheduler.events import Kind
from scheduler.fleet import is_alive
from scheduler.job import State
from tests.outages import READING, SILENT, Server, server
from tests.running import RunningWorker, Site
from tests.waiting import wait_until

LEASE_SECONDS = 2
PROMPTS = ("one", "two")
LONG = {"max_tokens": 2000, "temperature": 1, "seed": 5}


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server."""
    with server(tmp_path_factory.mktemp("away"), fsync="everysec") as made:
        yield made


@pytest.fixture(scope="module")
def house(away: Server, tiny_model: Path) -> Site:
    """A site on it."""
    settings = {"lease_seconds": LEASE_SECONDS, "memory_budget": "1GiB", "max_batch": 1}
    return Site(away.url, away.connection, away.folder, {"tiny": tiny_model}, settings)


@pytest.fixture(scope="module")
def workers(house: Site) -> Iterator[Sequence[RunningWorker]]:
    """Two that live through everything here, with a job each at most."""
    with house.worker(wait=False) as one, house.worker(wait=False) as two:
        for each in (one, two):
            wait_until(lambda each=each: each.ready, f"{each.name} ready", 120)  # type: ignore[misc]
        yield one, two


@pytest.fixture(scope="module")
def calm(house: Site, workers: Sequence[RunningWorker]) -> list[str]:
    """What two jobs write undisturbed."""
    return [house.text(job_id) for job_id in [house.submit(prompt, **LONG) for prompt in PROMPTS]]


@pytest.mark.parametrize("how", ["frozen", "refused", "read_only"])
def test_an_outage_longer_than_a_lease_costs_no_attempt(
    house: Site, away: Server, workers: Sequence[RunningWorker], calm: list[str], how: str
) -> None:
    """Every lease lapsed: each worker goes on with its own job, which its engine computed meanwhile, and takes no other."""
    jobs = [house.submit(prompt, **LONG) for prompt in PROMPTS]
    house.until_tokens(jobs, 2)
    with {**SILENT, **READING}[how](away):
        if how == "read_only":
            wait_until(lambda: not is_alive(away.connection, workers[0].name), "a lease's end", 20)
        else:
            time.sleep(2 * LEASE_SECONDS)
    assert [house.text(job_id) for job_id in jobs] == calm
    assert [house.get(job_id).meta.attempt for job_id in jobs] == [1, 1]
    for job_id in jobs:
        pieces = [event.data["tokens"] for event in house.events(job_id) if event.kind is Kind.DELTA]
        assert max(map(len, pieces)) > 20, "what was computed meanwhile is written at once"
    assert [worker.process.poll() for worker in workers] == [None, None]


def test_a_worker_that_was_stopped_and_whose_job_nobody_took_goes_on(
    house: Site, workers: Sequence[RunningWorker], calm: list[str]
) -> None:
    """Beyond its lease, with no other awake: the job is still its own, in its first attempt."""
    job_id = house.submit(PROMPTS[0], **LONG)
    house.until_tokens([job_id], 2)
    pids = [worker.process.pid for worker in workers]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: not any(is_alive(house.connection, each.name) for each in workers), "no lease", 20)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert house.text(job_id) == calm[0]
    assert house.get(job_id).meta.attempt == 1


def test_idle_workers_outlive_every_kind_of_outage(
    house: Site, away: Server, workers: Sequence[RunningWorker], calm: list[str]
) -> None:
    """One after another; then a cancellation is heard, jobs are done, and the log has said it in a few lines."""
    for away_so in {**SILENT, **READING}.values():
        with away_so(away):
            time.sleep(1)
    job_id = house.submit(PROMPTS[0], **LONG)
    house.until_tokens([job_id], 1)
    house.lifecycle.cancel(job_id)
    assert house.ended(job_id).state is State.CANCELLED
    assert house.text(house.submit(PROMPTS[0], **LONG)) == calm[0]
    for worker in workers:
        assert worker.process.poll() is None
        assert 1 <= worker.log.count("the store does not answer") <= 20
        assert "pubsub thread exiting" not in worker.log
        assert "Traceback" not in worker.log
