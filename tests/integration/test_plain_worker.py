"""A plain `rq worker`, which knows nothing of tidegate, runs a job in a spawned engine of its own."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import pytest
from rq.command import send_stop_job_command
from rq.job import Job
from rq.serializers import JSONSerializer

from scheduler.job import State
from tests.running import Site
from tests.waiting import wait_until

JSON = ("--serializer", "json")
SIMPLE = ("-w", "rq.SimpleWorker", *JSON)
ASKED = {"prompt": "plain", "max_tokens": 60, "temperature": 1, "seed": 4}


@pytest.fixture(scope="module")
def text(site: Site) -> str:
    """What MetalWorker writes."""
    with site.worker() as worker:
        made = site.text(site.submit(**ASKED))
        worker.process.send_signal(signal.SIGTERM)
        assert worker.exit_code() == 0
    return made


@pytest.mark.parametrize("kind", [JSON, SIMPLE], ids=["Worker", "SimpleWorker"])
def test_a_plain_worker_completes_jobs(site: Site, text: str, kind: Sequence[str]) -> None:
    """In a forked work horse, or in the worker itself; the text is MetalWorker's; RQ says finished."""
    jobs = [site.submit(**ASKED) for _ in range(2)]
    with site.worker("--burst", kind=kind, wait=False) as worker:
        assert worker.exit_code(60) == 0, worker.log
    assert [site.text(job_id) for job_id in jobs] == [text, text]
    for job_id in jobs:
        assert site.get(job_id).state is State.INCOMPLETE
        assert Job.fetch(job_id, connection=site.connection, serializer=JSONSerializer).is_finished


def test_a_plain_worker_tells_a_refused_job(site: Site) -> None:
    """400 as the outcome; RQ says failed; the job is not tried again; the next one runs."""
    bad, good = site.submit("x" * 4096), site.submit(max_tokens=2)
    with site.worker("--burst", kind=JSON, wait=False) as worker:
        assert worker.exit_code(60) == 0, worker.log
    outcome = site.get(bad).outcome
    assert outcome is not None and outcome.error is not None and outcome.error["status"] == 400
    site.prove_log(bad)
    assert site.text(good)
    assert Job.fetch(bad, connection=site.connection, serializer=JSONSerializer).is_failed


def test_a_plain_workers_job_is_cancelled_and_stopped(site: Site) -> None:
    """By a client; and by RQ's stop command, which kills the horse. No engine is left either way."""
    with site.worker(kind=JSON, wait=False) as worker:
        job_id = site.submit(max_tokens=3900)
        site.until_tokens([job_id], 3)
        site.lifecycle.cancel(job_id)
        assert site.ended(job_id, 10).state is State.CANCELLED
        site.prove_log(job_id)
        second = site.submit(max_tokens=3900)
        site.until_tokens([second], 3)
        send_stop_job_command(site.connection, second, serializer=JSONSerializer)
        assert site.ended(second, 40).state is State.CANCELLED
        site.prove_log(second)
        assert worker.process.poll() is None


def test_a_plain_workers_killed_horse_loses_no_job(site: Site) -> None:
    """Its lease lapses, and another worker goes on from its tokens to the undisturbed text."""
    fields = {"prompt": "horse", "max_tokens": 900}
    with site.worker(kind=JSON, wait=False, lease_seconds=2) as worker:
        job_id = site.submit(**fields)
        site.until_tokens([job_id], 10)
        worker.process.kill()
        worker.process.wait()
    assert site.get(job_id).outcome is None
    with site.worker(lease_seconds=2):
        resumed = site.text(job_id, 30)
        assert site.get(job_id).meta.attempt == 2
        assert resumed == site.text(site.submit(**fields))
    wait_until(lambda: not site.lifecycle.workers(), "no live worker", 20)
