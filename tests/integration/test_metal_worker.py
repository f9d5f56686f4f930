"""`rq worker -w workers.MetalWorker` as clients and operators see it: one worker for the module."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rq.command import send_stop_job_command
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from scheduler.events import Kind
from scheduler.job import PRIORITIES, State
from scheduler.tokenizers import FRESH_SECONDS, prompts_key
from tests.running import ROOT, RunningWorker, Site
from tests.undisturbed import undisturbed
from tests.waiting import wait_until

LONG = 3900


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[RunningWorker]:
    """The module's worker."""
    with site.worker() as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(site: Site, worker: RunningWorker) -> Iterator[None]:
    """What each test leaves behind is the next one's beginning."""
    with undisturbed(site, worker):
        yield


def rq(site: Site, *words: str) -> str:
    """Run RQ's own command."""
    done = subprocess.run(
        [sys.executable, "-m", "rq.cli", *words, "--url", site.url],
        cwd=ROOT,
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def rq_job(site: Site, job_id: str) -> Job:
    return Job.fetch(job_id, connection=site.connection, serializer=JSONSerializer)


def test_a_job_completes(site: Site) -> None:
    """Its result, its log, its numbers, and RQ's own view of it."""
    job_id = site.submit(max_tokens=10)
    text = site.text(job_id)
    rec = site.get(job_id)
    assert (rec.state, len(text)) == (State.INCOMPLETE, 10)
    view = rec.view()
    usage = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
    assert view["result"]["usage"] == usage | {"prompt_tokens_details": {"cached_tokens": 0}}
    assert view["created_at"] <= view["started_at"] <= view["completed_at"]
    memory = view["memory"]
    assert 0 < memory["peak_bytes"] <= memory["estimated_bytes"] <= memory["budget_bytes"]
    assert memory["footprint_ratio"] > 0.95
    wait_until(lambda: site.lifecycle.workers()[0].footprint_ratios, "its ratio, told to the fleet")
    assert [event.kind for event in site.events(job_id)][:2] == [Kind.QUEUED, Kind.STARTED]
    job = rq_job(site, job_id)
    assert job.get_status() is JobStatus.FINISHED
    assert job.is_finished and job.return_value()["state"] == "incomplete"


def test_rq_info_tells_the_truth_while_several_run(site: Site, worker: RunningWorker) -> None:
    """Four executing in two queues, the worker busy; then none, and it is idle."""
    jobs = [site.submit(max_tokens=LONG, priority=each) for each in ("standard", "batch") for _ in range(2)]
    site.until_tokens(jobs, 1)
    text = rq(site, "info", "--raw")
    assert re.search(r"queue standard 0, 2 executing", text), text
    assert re.search(r"queue batch 0, 2 executing", text), text
    assert re.search(rf"worker {worker.name} .* busy ", text), text
    for job_id in jobs:
        assert rq_job(site, job_id).get_status() is JobStatus.STARTED
        assert rq_job(site, job_id).worker_name == worker.name
        site.lifecycle.cancel(job_id)
    wait_until(lambda: " idle " in rq(site, "info", "--raw"), "an idle worker")
    assert "0 executing" in rq(site, "info", "--raw")


def test_rq_stops_a_running_job(site: Site) -> None:
    """`send_stop_job_command`: cancelled here, stopped in RQ; its company writes what it writes alone."""
    alone = site.text(site.submit("keep me", max_tokens=300))
    stopped, kept = site.submit(max_tokens=LONG), site.submit("keep me", max_tokens=300)
    site.until_tokens([stopped, kept], 5)
    send_stop_job_command(site.connection, stopped, serializer=JSONSerializer)
    assert site.ended(stopped).state is State.CANCELLED
    site.prove_log(stopped)
    assert rq_job(site, stopped).get_status() is JobStatus.STOPPED
    assert site.text(kept) == alone


def test_a_client_cancels_a_running_job(site: Site, worker: RunningWorker) -> None:
    """Soon; its memory is free; its company goes on; a second cancel changes nothing."""
    alone = site.text(site.submit("keep me", max_tokens=300))
    gone, kept = site.submit("x" * 2000, max_tokens=2000), site.submit("keep me", max_tokens=300)
    site.until_tokens([gone, kept], 5)
    wait_until(lambda: len(_report(worker).running) == 2, "a report of both")
    reserved = _report(worker).reserved_bytes
    site.lifecycle.cancel(gone)
    assert site.ended(gone, 5).state is State.CANCELLED
    assert site.lifecycle.cancel(gone).state is State.CANCELLED
    wait_until(lambda: _report(worker).reserved_bytes < reserved / 2, "its memory free")
    assert site.text(kept) == alone
    site.prove_log(gone)
    assert rq_job(site, gone).get_status() is JobStatus.STOPPED


def _report(worker: RunningWorker) -> Any:
    report = worker.report
    assert report is not None
    return report


def test_a_waiting_job_is_cancelled_at_once(site: Site) -> None:
    """Nobody claims it any more."""
    with suspended(site):
        waits = site.submit(max_tokens=2)
        site.lifecycle.cancel(waits)
        assert site.get(waits).state is State.CANCELLED
    assert [event.kind for event in site.events(waits)] == [Kind.QUEUED, Kind.CANCELLED]


def test_twenty_jobs_at_once_complete_within_the_budget(site: Site, worker: RunningWorker) -> None:
    """Each writes what it writes alone; at no moment was more held than the budget."""
    asked = [
        {"prompt": "Tell me " * (1 + at % 7), "max_tokens": 20 + 5 * at, "seed": at, "temperature": at % 2}
        for at in range(20)
    ]
    alone = [site.text(site.submit(**fields)) for fields in asked]
    jobs = [site.submit(**fields, priority=PRIORITIES[at % 3]) for at, fields in enumerate(asked)]

    def over() -> bool:
        report = _report(worker)
        held = report.weights_bytes + report.reserved_bytes + report.cache_bytes
        assert held <= report.budget_bytes
        assert held + report.headroom_bytes == report.budget_bytes
        return all(site.get(job_id).outcome is not None for job_id in jobs)

    wait_until(over, "twenty results", 60)
    assert [site.text(job_id) for job_id in jobs] == alone
    spans = [(rec.meta.started_at or 0, rec.meta.ended_at or 0) for rec in map(site.get, jobs)]
    assert max(sum(began <= at < ended for began, ended in spans) for at, _ in spans) > 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "x" * 4096}, "prompt"),
        ({"messages": [{"role": "user", "content": "x" * 4096}]}, "messages"),
        ({"logit_bias": {"99999": 1.0}}, "logit_bias"),
    ],
    ids=["prompt", "messages", "logit_bias"],
)
def test_what_the_model_cannot_take_is_a_bad_request(site: Site, fields: dict[str, Any], param: str) -> None:
    """Where the API cannot count: 400 `invalid_request` as the outcome, naming the field; no retry; RQ failed."""
    site.connection.delete(prompts_key("tiny"))
    time.sleep(FRESH_SECONDS)  # so long who submits may go by what it read before
    rec = site.ended(site.submit(**fields))
    assert rec.outcome is not None and rec.outcome.error is not None
    error = rec.outcome.error
    assert (rec.state, error["status"], error["code"]) == (State.FAILED, 400, "invalid_request")
    assert (error["param"], error["retryable"]) == (param, False)
    assert rq_job(site, rec.id).get_status() is JobStatus.FAILED
    site.prove_log(rec.id)


def test_stop_words_and_log_probabilities_reach_the_client(site: Site) -> None:
    """As in the engine: the text before the word, and an entry for every token in the log."""
    text = site.text(site.submit(max_tokens=40))
    stop = text[15:18]
    job_id = site.submit(max_tokens=40, stop=stop, logprobs=2)
    assert site.text(job_id) == text[: text.index(stop)]
    assert site.get(job_id).state is State.COMPLETED
    entries = [entry for event in site.events(job_id) for entry in event.data.get("logprobs", ())]
    assert len(entries) == len(site.tokens(job_id))
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


def test_a_seed_repeats_and_none_differs(site: Site) -> None:
    """The same seed writes the same text; without one, every job has its own."""
    seeded = [site.text(site.submit(temperature=1, seed=5, max_tokens=40)) for _ in range(2)]
    free = [site.text(site.submit(temperature=1, max_tokens=40)) for _ in range(2)]
    assert len({*seeded, *free}) == 3


def test_a_suspended_worker_goes_on_with_what_runs(site: Site) -> None:
    """`rq suspend`: nothing new is claimed, the running job ends well; `rq resume`: all goes on."""
    running = site.submit(max_tokens=1500)
    site.until_tokens([running], 5)
    with suspended(site):
        waits = site.submit(max_tokens=3)
        count = len(site.tokens(running))
        wait_until(
            lambda: len(site.tokens(running)) > count or site.get(running).outcome is not None, "more tokens"
        )
        site.text(running)
        assert site.get(waits).state is State.QUEUED
    assert site.text(waits)


@contextmanager
def suspended(site: Site) -> Iterator[None]:
    """`rq suspend`, seen by the worker; then `rq resume`."""
    rq(site, "suspend")
    try:
        wait_until(lambda: not _claims(site), "a worker that claims nothing", 5)
        yield
    finally:
        rq(site, "resume")


def _claims(site: Site) -> bool:
    """Whether a job that is submitted now is claimed within a second."""
    probe = site.submit(max_tokens=1)
    try:
        wait_until(lambda: site.get(probe).state is not State.QUEUED, "claimed", 1)
    except AssertionError:
        site.lifecycle.cancel(probe)
        return False
    return True


def test_a_run_timeout_ends_a_job(site: Site) -> None:
    """504 `run_timeout`, of no use to send again; the engine goes on with others."""
    kept = site.submit(max_tokens=1500)
    rec = site.ended(site.submit(max_tokens=LONG, run_timeout=0.3))
    assert rec.outcome is not None and rec.outcome.error is not None
    error = rec.outcome.error
    assert (rec.state, error["status"], error["code"]) == (State.FAILED, 504, "run_timeout")
    assert not error["retryable"]
    assert len(site.text(kept)) == 1500


def test_a_queue_timeout_ends_a_waiting_job(site: Site) -> None:
    """503 `queue_timeout`, though no client looks."""
    with suspended(site):
        waits = site.submit(max_tokens=3, queue_timeout=0.2)
        wait_until(lambda: site.connection.hget(Job.key_for(waits), "status") == b"failed", "its end", 10)
        outcome = site.get(waits).outcome
    assert outcome is not None and outcome.error is not None and outcome.error["code"] == "queue_timeout"


def test_an_idle_worker_picks_a_job_up_soon(site: Site) -> None:
    """Within 100 ms from the client's call to the claim, for the middle one of nine."""
    waits = []
    for _ in range(9):
        rec = site.get(site.submit(max_tokens=1))
        site.ended(rec.id)
        waits.append((site.get(rec.id).meta.started_at or 0) - rec.created_at)
    assert sorted(waits)[4] < 0.1, waits
