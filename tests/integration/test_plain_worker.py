"""A plain `rq worker`, which knows nothing of tidegate, runs a job in a spawned engine of its own."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import psutil
import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from scheduler.job import State
from scheduler.tokenizers import prompts_key
from tests.running import Site

JSON = ("--serializer", "json", "--job-class", "workers.GenerationJob")
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
    site.connection.delete(prompts_key("tiny"))  # else it is refused at once
    bad, good = site.submit("x" * 4096), site.submit(max_tokens=2)
    with site.worker("--burst", kind=JSON, wait=False) as worker:
        assert worker.exit_code(60) == 0, worker.log
    outcome = site.get(bad).outcome
    assert outcome is not None and outcome.error is not None and outcome.error["status"] == 400
    site.prove_log(bad)
    assert site.text(good)
    assert Job.fetch(bad, connection=site.connection, serializer=JSONSerializer).is_failed


def test_a_plain_workers_job_is_cancelled(site: Site) -> None:
    """By a client, soon; the worker goes on with the next one."""
    with site.worker(kind=JSON, wait=False) as worker:
        job_id = site.submit(max_tokens=3900)
        site.until_tokens([job_id], 3)
        site.lifecycle.cancel(job_id)
        assert site.ended(job_id, 10).state is State.CANCELLED
        site.prove_log(job_id)
        assert site.text(site.submit(max_tokens=2))
        assert worker.process.poll() is None


def test_a_plain_worker_outlives_a_job_that_rq_cancels(site: Site) -> None:
    """RQ's own `Job.cancel()` of the running job: it has its end at once, and the next job runs."""
    with site.worker(kind=JSON, wait=False) as worker:
        job_id = site.submit(max_tokens=3900)
        site.until_tokens([job_id], 3)
        Job.fetch(job_id, connection=site.connection, serializer=JSONSerializer).cancel()
        assert site.ended(job_id, 10).state is State.CANCELLED
        site.prove_log(job_id)
        assert site.text(site.submit(max_tokens=2))
        assert worker.process.poll() is None


def test_a_plain_workers_killed_horse_loses_no_job(site: Site) -> None:
    """RQ tries the job again with the fields it once read; it goes on from its tokens all the same, to the
    undisturbed text, its log without gap or repeat.
    """
    fields = {"prompt": "horse", "max_tokens": 1800}
    with site.worker(kind=JSON, wait=False, lease_seconds=2) as worker:
        calm = site.text(site.submit(**fields))
        job_id = site.submit(**fields)
        site.until_tokens([job_id], 100)
        (horse,) = psutil.Process(worker.process.pid).children()
        horse.kill()
        assert site.text(job_id) == calm
        assert site.get(job_id).meta.attempt == 2
        assert worker.process.poll() is None


def test_a_plain_workers_job_outlives_its_worker(site: Site) -> None:
    """The worker is killed, its horse is not: the job ends once, whoever ends it, and nothing is left."""
    fields = {"prompt": "horse", "max_tokens": 1800}
    with site.worker(kind=JSON, wait=False, lease_seconds=2, memory_budget="1GiB") as worker:
        job_id = site.submit(**fields)
        site.until_tokens([job_id], 100)
        worker.process.kill()
        worker.process.wait()
        with site.worker(lease_seconds=2, memory_budget="1GiB"):
            assert site.text(job_id) == site.text(site.submit(**fields))
