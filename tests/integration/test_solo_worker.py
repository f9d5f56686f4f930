"""A real worker with a model that runs one job at a time, beside one whose jobs share a batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.random_models import write_random_model
from scheduler.job import State
from tests.key_leaks import leaks
from tests.running import Site, a_site
from tests.waiting import wait_until

LONG = 1500


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Site]:
    """A server and a folder, and both models."""
    solo = write_random_model(tmp_path_factory.mktemp("llama4"), "llama4", never_stops=True)
    with a_site({"tiny": tiny_model, "solo": solo}) as made:
        yield made
        assert leaks(made.connection) == []


def test_jobs_run_one_after_another_and_others_beside_them(site: Site) -> None:
    """The second waits, and is told for how long, though there is memory for many; another model's start and end
    meanwhile. The engine dies in the first: both still write what they write undisturbed.
    """
    with site.worker(max_passes=3) as worker:
        calm = site.text(site.submit(model="solo", max_tokens=LONG))
        first = site.submit(model="solo", max_tokens=LONG)
        site.until(first, State.IN_PROGRESS)
        second = site.submit(model="solo", max_tokens=LONG)
        site.until_tokens([first], 1)
        for _ in range(6):  # more than may pass a job that waits for memory
            assert site.text(site.submit(model="tiny", max_tokens=4))
        seen = site.lifecycle.view(site.get(second))
        assert seen["status"] == "queued" and seen["queue"]["eta_seconds"] > 0
        assert site.get(first).state is State.IN_PROGRESS
        report = worker.report
        assert report is not None and report.cards["solo"]["alone"] and not report.cards["tiny"]["alone"]
        assert [job.model for job in report.running].count("solo") <= 1
        os.kill(worker.engine_pid, signal.SIGKILL)
        assert [site.text(job) for job in (first, second)] == [calm, calm]
        one, two = (site.lifecycle.view(site.get(job)) for job in (first, second))
        assert one["completed_at"] <= two["started_at"] < two["completed_at"]
        wait_until(lambda: worker.report is not None and worker.report.reserved_bytes == 0, "an idle worker")
