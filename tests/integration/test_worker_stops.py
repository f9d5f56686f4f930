"""How a worker ends: warm, cold, in burst mode; and that its jobs are never lost by it."""

from __future__ import annotations

import signal
import time
from typing import Any

from redis import Redis
from rq import Worker

from scheduler.events import Kind
from scheduler.job import State
from tests.running import Site
from tests.waiting import wait_until

ASKED: list[dict[str, Any]] = [
    {"prompt": "one", "max_tokens": 1000},
    {"prompt": "two " * 20, "max_tokens": 1000, "temperature": 1, "seed": 3},
    {"prompt": "three", "max_tokens": 900, "repetition_penalty": 1.2},
]


def gone(connection: Redis, name: str) -> bool:
    """Whether RQ knows no such worker any more."""
    return name not in {worker.name for worker in Worker.all(connection)}


def test_a_first_sigterm_lets_running_jobs_finish(site: Site) -> None:
    """Warm: what runs ends well, what waits stays, the exit code is 0, and nobody lists the worker."""
    with site.worker("--quiet") as worker:
        jobs = [site.submit(**fields) for fields in ASKED]
        site.until_tokens(jobs, 5)
        worker.process.send_signal(signal.SIGTERM)
        waits = site.submit(max_tokens=2)
        texts = [site.text(job_id) for job_id in jobs]
        assert worker.exit_code() == 0
        assert worker.report is None
        assert gone(site.connection, worker.name)
        assert [site.get(job_id).meta.attempt for job_id in jobs] == [1, 1, 1]
        assert site.get(waits).state is State.QUEUED
    with site.worker():
        assert site.text(waits)
        assert [site.text(site.submit(**fields)) for fields in ASKED] == texts


def test_an_idle_worker_ends_at_once(site: Site) -> None:
    """SIGTERM or SIGINT: within some seconds, most of which the interpreter takes to end; exit code 0."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        with site.worker() as worker:
            started = time.monotonic()
            worker.process.send_signal(signum)
            assert worker.exit_code(10) == 0
            assert time.monotonic() - started < 5
            assert gone(site.connection, worker.name)


def test_a_worker_that_still_starts_ends_at_once(site: Site) -> None:
    """SIGTERM while its engine loads: nothing is lost, nothing hangs."""
    job_id = site.submit(max_tokens=2)
    with site.worker(wait=False) as worker:
        wait_until(lambda: worker.engine_pid, "an engine", 30)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.exit_code(15) == 0
    assert site.get(job_id).state is State.QUEUED
    with site.worker():
        assert site.text(job_id)


def test_jobs_that_outlast_the_grace_go_on_elsewhere(site: Site) -> None:
    """They wait with their tokens, in progress on the wire; another worker finishes them, and the stream
    that was followed throughout is the undisturbed one's: no gap, no repeat, no change.
    """
    with site.worker() as calm:
        texts = [site.text(site.submit(**fields)) for fields in ASKED]
        calm.process.send_signal(signal.SIGTERM)
        assert calm.exit_code() == 0
    with site.broadcast() as heard:
        with site.worker(shutdown_grace=0) as worker:
            jobs = [site.submit(**fields) for fields in ASKED]
            site.until_tokens(jobs, 20)
            worker.process.send_signal(signal.SIGTERM)
            assert worker.exit_code() == 0
            assert worker.report is None
        for job_id in jobs:
            rec = site.get(job_id)
            assert (rec.state, rec.wire_state) == (State.QUEUED, State.IN_PROGRESS)
            assert site.events(job_id)[-1].kind is Kind.REQUEUED
            assert 20 <= len(site.tokens(job_id)) < 900
        with site.worker():
            assert [site.text(job_id) for job_id in jobs] == texts
    for job_id in jobs:
        assert site.get(job_id).meta.attempt == 2
        assert [event for name, event in heard if name == job_id] == site.events(job_id)


def test_a_second_sigterm_is_cold(site: Site) -> None:
    """A repeat within a second is the same one; a later one puts the jobs back at once."""
    with site.worker(shutdown_grace=60) as worker:
        job_id = site.submit(max_tokens=3900)
        site.until_tokens([job_id], 5)
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGTERM)
        count = len(site.tokens(job_id))
        wait_until(lambda: len(site.tokens(job_id)) > count + 20, "more tokens in spite of it")
        first = time.monotonic()
        wait_until(lambda: time.monotonic() - first > 1.1, "a second")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.exit_code(5) == 0
        assert site.get(job_id).state is State.QUEUED
    site.lifecycle.cancel(job_id)
    site.prove_log(job_id)


def test_burst_finishes_everything_and_ends(site: Site) -> None:
    """More jobs than one claim looks at, in every queue; exit code 0 and nothing left."""
    jobs = [
        site.submit(prompt=f"{at}", max_tokens=4 + at, priority=priority)
        for at in range(8)
        for priority in ("interactive", "standard", "batch")
    ]
    with site.worker("--burst", wait=False) as worker:
        assert worker.exit_code(60) == 0
    for job_id in jobs:
        assert site.get(job_id).state is State.INCOMPLETE
        site.prove_log(job_id)


def test_burst_with_nothing_to_do_ends(site: Site) -> None:
    """Within the time that an engine needs to start."""
    with site.worker("--burst", wait=False) as worker:
        assert worker.exit_code(20) == 0


def test_burst_ends_though_jobs_of_other_models_wait(site: Site) -> None:
    """What it cannot serve is left to others."""
    other = site.models | {"other": site.models["tiny"]}
    job_id = _for_another_model(site, other)
    with site.worker("--burst", wait=False) as worker:
        assert worker.exit_code(20) == 0
    assert site.get(job_id).state is State.QUEUED
    site.lifecycle.cancel(job_id)


def _for_another_model(site: Site, models: dict[str, Any]) -> str:
    wider = Site(site.url, site.connection, site.folder, models)
    return wider.submit(model="other", max_tokens=2)


def test_max_jobs_are_run_to_their_ends(site: Site) -> None:
    """`--max-jobs 2`: two are finished, the third waits."""
    jobs = [site.submit(prompt=f"{at}", max_tokens=50) for at in range(3)]
    with site.worker("--max-jobs", "2", wait=False) as worker:
        assert worker.exit_code(30) == 0
    states = [site.get(job_id).state for job_id in jobs]
    assert states == [State.INCOMPLETE, State.INCOMPLETE, State.QUEUED]
    site.lifecycle.cancel(jobs[2])
