"""Engines and workers that are killed, stopped or out of memory: jobs lose nothing but time."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from benchmarks.address_space import limited
from benchmarks.random_models import write_random_llama
from scheduler.card import ModelCard
from scheduler.events import Kind, LoggedEvent
from scheduler.footprint import alone_bytes
from scheduler.foresight import Row
from scheduler.job import State
from tests.running import RunningWorker, Site, a_site, gone
from tests.waiting import wait_until
from workers.breaker import COOLDOWN_SECONDS, DEATHS_MOST

LEASE = {"lease_seconds": 2}

ASKED: list[dict[str, Any]] = [
    {"prompt": "one", "max_tokens": 800},
    {"prompt": "two " * 20, "max_tokens": 820, "temperature": 1, "seed": 3},
    {"prompt": "three", "max_tokens": 780, "repetition_penalty": 1.2, "temperature": 0.8, "seed": 9},
    {"prompt": "four " * 100, "max_tokens": 750, "stop": ["\x01"]},
]


@pytest.fixture(scope="module")
def texts(site: Site) -> list[str]:
    """What the jobs write undisturbed, each alone."""
    with site.worker() as worker:
        made = [site.text(site.submit(**fields)) for fields in ASKED]
        worker.process.send_signal(signal.SIGTERM)
        assert worker.exit_code() == 0
    return made


def kill_engine(worker: RunningWorker, signum: signal.Signals) -> None:
    """End the engine that runs now, and wait for the next."""
    pid = worker.engine_pid
    os.kill(pid, signum)
    wait_until(lambda: worker.engine_pid not in {0, pid}, "the next engine", 40)


def begun(site: Site, job_id: str) -> bool:
    """Whether a job is claimed, or was: on a busy machine it may have ended before anybody looked."""
    rec = site.get(job_id)
    return bool(rec.lease or rec.outcome)


def test_a_killed_engine_costs_its_jobs_nothing_but_time(site: Site, texts: list[str]) -> None:
    """Killed in their prefill, at their first token, in full decode: the texts are the undisturbed ones, the
    logs and what readers were told have no gap and no repeat, and nobody is blamed.
    """
    with site.worker() as worker, site.broadcast() as heard:
        for tokens in (0, 1, 120):
            wait_until(lambda: worker.ready, "a worker that is ready", 60)
            jobs = [site.submit(**fields) for fields in ASKED]
            wait_until(lambda jobs=jobs: all(begun(site, job_id) for job_id in jobs), "all claimed")  # type: ignore[misc]
            site.until_tokens(jobs[:1] if tokens < 2 else jobs, tokens)
            kill_engine(worker, signal.SIGKILL)
            assert [site.text(job_id) for job_id in jobs] == texts
            blames_nobody_in_company(site, heard, jobs)
        wait_until(lambda: worker.report is not None and not worker.report.running, "an idle report")
        assert worker.report is not None and worker.report.reserved_bytes == 0


VARIED: list[dict[str, Any]] = [
    {"prompt": "greedy", "max_tokens": 120},
    {"prompt": "greedy, and told of " * 5, "max_tokens": 100, "logprobs": 2},
    {"prompt": "seeded", "max_tokens": 130, "temperature": 1, "seed": 11, "top_p": 0.95},
    {"prompt": "it repeats itself " * 4, "max_tokens": 100, "repetition_penalty": 1.3},
    {
        "prompt": "seeded, and kept from much",
        "max_tokens": 110,
        "temperature": 0.9,
        "seed": 5,
        "presence_penalty": 0.7,
        "frequency_penalty": 0.2,
        "logprobs": 0,
    },
]
KILLS = 6  # not so many that it looks like a crash loop


@pytest.fixture(scope="module")
def calm(site: Site) -> list[dict[str, Any]]:
    """The varied jobs' results undisturbed, all in one batch."""
    with site.worker():
        return [result(site, job_id) for job_id in [site.submit(**fields) for fields in VARIED]]


@pytest.mark.timeout(300)  # a dozen engines, one after another
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGABRT])
def test_an_engine_killed_at_any_moment_changes_no_byte(
    site: Site, calm: list[dict[str, Any]], signum: signal.Signals
) -> None:
    """At random moments, many times: greedy or seeded, with penalties, the results are the undisturbed ones;
    each token has its one entry among the logprobs, with the same candidates.
    """
    draw = random.Random(signum)
    with site.worker() as worker, site.broadcast() as heard:
        for _ in range(KILLS):
            tokens, watched = draw.randrange(80), draw.randrange(len(VARIED))
            wait_until(lambda: worker.ready, "a worker that is ready", 60)
            jobs = [site.submit(**fields) for fields in VARIED]
            wait_until(lambda jobs=jobs: all(begun(site, job_id) for job_id in jobs), "all claimed", 30)  # type: ignore[misc]
            site.until_tokens([jobs[watched]], tokens)
            kill_engine(worker, signum)
            made = [result(site, job_id) for job_id in jobs]
            assert [named(each) for each in made] == [named(each) for each in calm]
            for one, other in zip(made, calm, strict=True):
                assert numbers(one) == pytest.approx(numbers(other), abs=1e-3)
            blames_nobody_in_company(site, heard, jobs)
        assert worker.log.count("engine died") == KILLS


def result(site: Site, job_id: str) -> dict[str, Any]:
    """A job's whole result; each token has its entry, where entries were asked for."""
    site.text(job_id)
    outcome = site.get(job_id).outcome
    assert outcome is not None and outcome.result is not None
    if "logprobs" in outcome.result:
        assert len(outcome.result["logprobs"]) == outcome.result["usage"]["completion_tokens"]
    return outcome.result


def named(made: dict[str, Any]) -> dict[str, Any]:
    """A result without the numbers that a prompt's chunk and a decode step round differently, and without how much
    of the prompt was kept: that is by what its engine did before, and a job may end before the kill.
    """
    entries = [
        (each["token"], each["bytes"], *(other["token"] for other in each["top_logprobs"]))
        for each in made.get("logprobs", ())
    ]
    usage = {name: value for name, value in made["usage"].items() if name != "prompt_tokens_details"}
    return {**made, "usage": usage, "logprobs": entries}


def numbers(made: dict[str, Any]) -> list[float]:
    """Those numbers."""
    return [other["logprob"] for each in made.get("logprobs", ()) for other in (each, *each["top_logprobs"])]


def blames_nobody_in_company(site: Site, heard: list[tuple[str, LoggedEvent]], jobs: list[str]) -> None:
    """A death is counted against a job only where it was alone with its engine: where a test was held up before
    the kill, the others may have ended by then.
    """
    for job_id in jobs:
        told(site, heard, job_id)
    for job_id in jobs:
        back = [
            at for at, (name, event) in enumerate(heard) if name == job_id and event.kind is Kind.REQUEUED
        ]
        ended = {name for name, event in heard[: back[0] if back else 0] if event.ends}
        alone = bool(back) and set(jobs) - ended == {job_id}
        assert (job_id, site.get(job_id).meta.failures) == (job_id, int(alone))


def told(site: Site, heard: list[tuple[str, LoggedEvent]], job_id: str) -> None:
    """Readers were told just what the log says, in its order."""
    wait_until(lambda: any(name == job_id and event.ends for name, event in heard), "its end told")
    assert [event for name, event in heard if name == job_id] == site.events(job_id)


def test_a_job_that_ends_engines_alone_is_found(site: Site, texts: list[str]) -> None:
    """Its company is halved until it is alone, and there twice: then `worker_killed`, 500, no retry; the others
    end well, none of them blamed, however many of the deaths they were there for.
    """
    with site.worker() as worker:
        others = [site.submit(**fields) for fields in ASKED]
        killer = site.submit("killer", max_tokens=3900)
        attempt = 0
        while site.get(killer).outcome is None:
            attempt += 1
            assert attempt <= 5, "once in company of five, then of five, of two, and twice alone"
            wait_until(lambda attempt=attempt: has_output(site, killer, attempt), f"attempt {attempt}", 60)  # type: ignore[misc]
            kill_engine(worker, signal.SIGABRT)
            wait_until(
                lambda attempt=attempt: went_on(site, killer, attempt), "its next attempt, or its end", 60
            )  # type: ignore[misc]
        assert attempt >= 2
        rec = site.ended(killer)
        assert rec.outcome is not None and rec.outcome.error is not None
        error = rec.outcome.error
        assert (error["status"], error["code"], error["retryable"]) == (500, "worker_killed", False)
        assert "SIGABRT" in error["message"]
        site.prove_log(killer)
        assert [site.text(job_id) for job_id in others] == texts
        assert [site.get(job_id).meta.failures for job_id in others] == [0] * len(others)


def went_on(site: Site, job_id: str, attempt: int) -> bool:
    """Whether a job has ended, or begun another attempt than this."""
    rec = site.get(job_id)
    return rec.outcome is not None or rec.meta.attempt > attempt


def test_a_job_whose_engine_is_killed_alone_twice_ran_out_of_memory(site: Site, texts: list[str]) -> None:
    """SIGKILL is how Linux and macOS take memory back: 503 `insufficient_memory`, with when to retry."""
    with site.worker() as worker:
        job_id = site.submit("large", max_tokens=3900)
        for attempt in (1, 2):
            wait_until(lambda attempt=attempt: has_output(site, job_id, attempt), f"attempt {attempt}", 60)  # type: ignore[misc]
            kill_engine(worker, signal.SIGKILL)
        rec = site.ended(job_id)
        assert rec.outcome is not None and rec.outcome.error is not None
        error = rec.outcome.error
        assert (error["status"], error["code"], error["retryable"]) == (503, "insufficient_memory", True)
        assert 1 <= error["retry_after"] <= 120
        assert error["estimated_bytes"] > 0 and error["limit_bytes"] > 0
        site.prove_log(job_id)
        assert site.text(site.submit(**ASKED[0])) == texts[0]


def has_output(site: Site, job_id: str, attempt: int) -> bool:
    """Whether an attempt has said something."""
    assert site.get(job_id).outcome is None, site.get(job_id).outcome
    events = site.events(job_id)
    started = [
        at
        for at, event in enumerate(events)
        if event.kind is Kind.STARTED and event.data["attempt"] == attempt
    ]
    return bool(started) and any(event.kind is Kind.DELTA for event in events[started[0] :])


def test_a_killed_workers_jobs_go_on_elsewhere(site: Site, texts: list[str]) -> None:
    """SIGKILL: its engine dies with it; when its lease has lapsed another worker finishes its jobs; RQ's
    registries are clean.
    """
    with site.broadcast() as heard, site.worker(**LEASE) as worker:
        jobs = [site.submit(**fields) for fields in ASKED]
        site.until_tokens(jobs, 20)
        engine = worker.engine_pid
        worker.process.kill()
        worker.process.wait()
        wait_until(gone(engine), "its engine's end", 5)
        with site.worker(**LEASE):
            assert [site.text(job_id, 60) for job_id in jobs] == texts
            assert site.connection.zcard("rq:wip:standard") == 0
    for job_id in jobs:
        assert site.get(job_id).meta.attempt >= 2
        told(site, heard, job_id)


def test_a_worker_that_comes_back_too_late_changes_nothing(site: Site, texts: list[str]) -> None:
    """Stopped until its lease lapsed and others finished its jobs, then continued: its late words are
    refused, readers hear nothing of them, there is one end; and it goes on to work.
    """
    with site.broadcast() as heard, site.worker(**LEASE, memory_budget="1GiB") as worker:
        jobs = [site.submit(**fields) for fields in ASKED[:3]]
        half = site.submit("half", max_tokens=3900)
        site.until_tokens([*jobs, half], 20)
        os.kill(worker.process.pid, signal.SIGSTOP)
        try:
            with site.worker(**LEASE, memory_budget="1GiB") as other:
                assert [site.text(job_id, 60) for job_id in jobs] == texts[:3]
                wait_until(lambda: site.get(half).meta.attempt == 2, "the last one taken over", 20)
                os.kill(worker.process.pid, signal.SIGCONT)
                wait_until(lambda: worker.report is not None, "its return")
                wait_until(lambda: "lost to another attempt" in worker.log, "its loss noticed")
                site.lifecycle.cancel(half)
                assert site.ended(half).state is State.CANCELLED
                other.process.send_signal(signal.SIGTERM)
                assert other.exit_code() == 0
        finally:
            os.kill(worker.process.pid, signal.SIGCONT)
        assert site.text(site.submit(**ASKED[0])) == texts[0]
    for job_id in (*jobs, half):
        site.prove_log(job_id)
        told(site, heard, job_id)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")
def test_running_out_of_memory_for_real_is_a_503(tmp_path: Path) -> None:
    """Under an address space that the job alone outgrows, MLX's CPU build dies of a segmentation fault:
    twice, then the job ends as 503 with the numbers; the worker and small jobs go on.
    """
    model = write_random_llama(
        tmp_path, layers=2, hidden=64, heads=32, kv_heads=32, head_dim=256, never_stops=True
    )
    row = Row(3000, 50)
    with a_site({"huge": model}, blas_preload="auto", prefill_chunk=16) as site:
        with site.worker(memory_budget=2 << 30):
            """Measures the model: the next one has its card, and its engine has never held more."""
        with site.worker() as free:
            report = free.report
            assert report is not None
            need = alone_bytes(ModelCard.from_json(report.cards["huge"]), row, 16)
            space = psutil.Process(free.engine_pid).memory_info().vms
        limit = space + need // 2
        prefix = limited(limit)
        with site.worker(prefix=prefix, memory_budget=need + (1 << 20)) as worker:
            large = site.submit("x" * 3000, max_tokens=50)
            small = site.submit("small", max_tokens=5)
            rec = site.ended(large, 90)
            assert rec.outcome is not None and rec.outcome.error is not None, rec.outcome
            error = rec.outcome.error
            assert (error["status"], error["code"]) == (503, "insufficient_memory"), (
                error,
                worker.log[-2000:],
            )
            assert error["retryable"] and 1 <= error["retry_after"] <= 120
            assert error["limit_bytes"] == need + (1 << 20)
            site.prove_log(large)
            assert len(site.text(small)) == 5
            assert len(site.text(site.submit("after", max_tokens=5))) == 5
            assert worker.process.poll() is None
            assert "SIGSEGV" in worker.log
            assert "phase prefill" in worker.log


@pytest.mark.timeout(300)
def test_a_crash_loop_opens_the_breaker(site: Site) -> None:
    """After many deaths in a while the worker says that it cools down, in its report and its log, and claims
    nothing; afterwards it tries again. One more death, and it cools down again; it still ends when it is asked to.
    """
    with site.worker() as worker:
        for _ in range(DEATHS_MOST - 1):
            kill_engine(worker, signal.SIGKILL)
        os.kill(worker.engine_pid, signal.SIGKILL)
        wait_until(lambda: cools_down(worker), "the breaker", 20)
        job_id = site.submit(max_tokens=2)
        wait_until(lambda: cools_down(worker), "another report", 20)
        assert site.get(job_id).state is State.QUEUED
        assert site.get(job_id).meta.attempt == 0
        assert "cooling down" in worker.log
        assert len(site.text(job_id, COOLDOWN_SECONDS + 60)) == 2
        os.kill(worker.engine_pid, signal.SIGKILL)
        wait_until(lambda: cools_down(worker), "the breaker again", 20)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.exit_code(10) == 0


def cools_down(worker: RunningWorker) -> bool:
    """Whether a worker says so, and until when, and has no engine."""
    report = worker.report
    if report is None or report.engine != "cooling down" or worker.engine_pid:
        return False
    return 0 < report.cools_until - report.updated_at <= COOLDOWN_SECONDS


def test_a_silent_engine_is_replaced(site: Site) -> None:
    """No progress within the deadline while a job runs: it is killed and the job goes on."""
    with site.worker(progress_timeout=2) as worker:
        calm = site.text(site.submit("stuck", max_tokens=2000))
        job_id = site.submit("stuck", max_tokens=2000)
        site.until_tokens([job_id], 10)
        os.kill(worker.engine_pid, signal.SIGSTOP)
        assert site.text(job_id) == calm
        assert site.get(job_id).meta.attempt == 2


def test_a_server_that_goes_away_for_a_while_loses_nothing(tiny_model: Path, cards: Path) -> None:
    """Stopped in mid-stream for three seconds: the worker waits, then goes on where it was."""
    with a_site({"tiny": tiny_model}, cards=cards) as site, site.worker() as worker:
        calm = site.text(site.submit("away", max_tokens=600))
        job_id = site.submit("away", max_tokens=600)
        site.until_tokens([job_id], 20)
        server = _server(site.connection)
        server.suspend()
        try:
            with (
                Redis.from_url(site.url, socket_timeout=3) as probe,
                pytest.raises(Exception, match="imeout"),
            ):
                probe.ping()
        finally:
            server.resume()
        assert site.text(job_id) == calm
        assert worker.process.poll() is None


def _server(connection: Redis) -> psutil.Process:
    info: Any = connection.info("server")
    return psutil.Process(info["process_id"])
