"""Workers on one host share its memory: what the first holds, the second does not have."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from scheduler.host_leases import host_key, share_key
from scheduler.host_share import Share, dump, parse
from scheduler.job import State
from tests.running import ROOT, RunningWorker, Site, a_site
from tests.waiting import wait_until
from workers.host import host_name

MIB = 1 << 20
PLAIN = ("--serializer", "json")


def budget(worker: RunningWorker) -> int:
    """What a worker says it may use."""
    assert worker.report is not None
    return worker.report.budget_bytes


def by_token(site: Site) -> dict[str, Share]:
    """The shares on this host."""
    text: Any = site.connection.get(host_key(host_name()))
    return parse(text or b"")


def held(site: Site) -> dict[str, Share]:
    """Likewise, by worker."""
    return {share.worker: share for share in by_token(site).values()}


def stop(worker: RunningWorker) -> None:
    """End a worker as an operator does."""
    worker.process.send_signal(signal.SIGTERM)
    assert worker.exit_code() == 0, worker.log


@pytest.fixture(scope="module")
def whole(site: Site) -> int:
    """What a worker that has the host alone may use."""
    with site.worker() as worker:
        found = budget(worker)
        assert {name: share.share_bytes for name, share in held(site).items()} == {worker.name: found}
        stop(worker)
    assert held(site) == {}
    return found


def test_a_second_worker_takes_what_is_left(site: Site, whole: int) -> None:
    """It says that the share binds it, its engine goes by it, and both complete jobs."""
    with site.worker(memory_budget="1GiB") as first, site.worker() as second:
        assert (budget(first), budget(second)) == (1 << 30, whole - (1 << 30))
        assert second.report is not None
        assert second.report.budget_source == "host_share"
        assert second.report.limits_bytes["host_share"] == budget(second)
        assert "this one takes what is left" in second.log
        assert all(site.text(site.submit(max_tokens=3)) for _ in range(4))


def test_a_second_worker_without_room_fails_to_start(site: Site, whole: int) -> None:
    """Soon, with exit code 1 and one line that says who holds what; the first goes on."""
    with site.worker() as first, site.worker(wait=False) as second:
        assert second.exit_code() == 1
        last = second.log.rstrip().splitlines()[-1]
        assert last.startswith(f"no room for worker {second.name} in this host's memory: ")
        assert second.log.count("no room for worker") == 1
        assert f"worker {first.name} (pid {first.process.pid}) holds " in last
        assert f"({whole:,} bytes); 0 bytes of " in last
        assert "Traceback" not in second.log
        assert second.report is None and [*held(site)] == [first.name]
        assert site.text(site.submit(max_tokens=3))


def test_tidegate_up_ends_with_who_holds_what(tiny_model: Path, cards: Path) -> None:
    """Its worker finds no room: the reason is the last line."""
    with a_site({"tiny": tiny_model}, cards=cards) as site, site.worker(queues=["batch"]) as holder:
        done = subprocess.run(
            [sys.executable, "-m", "tidegate", "up", "--once", "--port", "0"],
            env=site.environment(data_dir=site.folder / "up"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert f"worker {holder.name} (pid {holder.process.pid}) holds " in said
    assert said.endswith("or give each its part by TIDEGATE_MEMORY_BUDGET"), done.stderr


def test_settings_that_do_not_fit_together_fail_the_second(site: Site, whole: int) -> None:
    """It gets what was set, or nothing; what does fit starts beside them."""
    most = whole - (1 << 30)
    with site.worker(memory_budget=most) as first:
        with site.worker(wait=False, memory_budget="2GiB") as second:
            assert second.exit_code() == 1
            last = second.log.rstrip().splitlines()[-1]
            assert f"{first.name} (pid {first.process.pid}) holds " in last
            assert "1.0 GiB (1,073,741,824 bytes) of " in last
            assert "TIDEGATE_MEMORY_BUDGET asks for 2.0 GiB" in last
        with site.worker(memory_budget="1GiB") as third:
            assert budget(first) + budget(third) == whole


def test_a_lone_worker_may_be_set_more_than_the_host_has(site: Site, whole: int) -> None:
    """The operator's word stands, and is remarked on; nothing is left beside it."""
    with site.worker(memory_budget=whole + MIB) as worker:
        assert budget(worker) == whole + MIB
        assert "TIDEGATE_MEMORY_BUDGET is more than this host has" in worker.log
        with site.worker(wait=False) as second:
            assert second.exit_code() == 1


def test_a_killed_workers_share_comes_back(site: Site, whole: int) -> None:
    """At once, since its process is seen to be gone, though its lease still runs."""
    with site.worker(lease_seconds=90) as first:
        (token,) = by_token(site)
        first.process.kill()
        first.process.wait()
        with site.worker() as second:
            assert site.connection.exists(share_key(token))
            assert budget(second) == whole and [*held(site)] == [second.name]


def test_a_worker_whose_processes_cannot_be_seen_is_waited_for(site: Site, whole: int) -> None:
    """As one in a container that was killed: its lease lapses, and the share is the next one's."""
    lost = Share("in-a-container", 7, "pid:[1]", whole, ("host_total",), 60.0)
    site.connection.set(host_key(host_name()), dump({"t": lost}), px=300_000)
    site.connection.set(share_key("t"), 1, px=300_000)
    with site.worker(wait=False) as worker:
        wait_until(lambda: "waiting for memory" in worker.log, "that it waits", 60)
        site.connection.delete(
            share_key("t")
        )  # as a lease ends: how long that takes must not depend on a start
        wait_until(lambda: worker.ready, "a worker that is ready", 60)
        assert budget(worker) == whole and [*held(site)] == [worker.name]


def test_a_dead_engines_successor_has_the_same_share(site: Site, whole: int) -> None:
    """Neither more nor less."""
    with site.worker(memory_budget="1GiB"), site.worker() as worker:
        before, pid = held(site), worker.engine_pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: worker.engine_pid not in {0, pid} and worker.ready, "the next engine", 40)
        assert held(site) == before and budget(worker) == whole - (1 << 30)


def test_a_worker_that_slept_past_its_lease_gives_way(site: Site, whole: int) -> None:
    """Others took its share: awake again, it does not go on with it; it ends, and says why."""
    with site.worker(lease_seconds=2) as sleeper:
        os.kill(sleeper.process.pid, signal.SIGSTOP)
        try:
            (token,) = by_token(site)
            wait_until(lambda: not site.connection.exists(share_key(token)), "its lease lapsed", 10)
            with site.worker() as other:
                os.kill(sleeper.process.pid, signal.SIGCONT)
                assert sleeper.exit_code() == 1
                assert "others took its share" in sleeper.log
                assert f"worker {other.name} (pid {other.process.pid}) holds " in sleeper.log.splitlines()[-1]
                assert budget(other) == whole and [*held(site)] == [other.name]
                assert site.text(site.submit(max_tokens=3))
        finally:
            sleeper.process.send_signal(signal.SIGCONT)


def test_a_worker_that_slept_takes_what_is_left(site: Site, whole: int) -> None:
    """Where that is enough to go on, with a new engine; its jobs lose nothing but time."""
    with site.worker(lease_seconds=2) as sleeper:
        job_id = site.submit(max_tokens=3000)
        site.until_tokens([job_id], 3)
        os.kill(sleeper.process.pid, signal.SIGSTOP)
        try:
            (token,) = by_token(site)
            wait_until(lambda: not site.connection.exists(share_key(token)), "its lease lapsed", 10)
            with site.worker(memory_budget="1GiB"):
                os.kill(sleeper.process.pid, signal.SIGCONT)
                wait_until(
                    lambda: sleeper.report is not None and budget(sleeper) == whole - (1 << 30),
                    "its smaller budget",
                    30,
                )
                assert site.text(job_id)
                assert sum(share.share_bytes for share in held(site).values()) == whole
        finally:
            sleeper.process.send_signal(signal.SIGCONT)


def test_a_server_that_forgot_everything_is_told_again(site: Site, whole: int) -> None:
    """And so is one that holds garbage; the worker goes on as it was."""
    with site.worker(lease_seconds=2) as worker:
        engine = worker.engine_pid
        for garbage in (b"", b"\xff{", b"[]"):
            site.connection.set(host_key(host_name()), garbage, px=60_000)
            wait_until(lambda: [*held(site)] == [worker.name], "its share is known again", 10)
        site.connection.delete(host_key(host_name()))
        wait_until(lambda: [*held(site)] == [worker.name], "its share is known again", 10)
        assert (worker.engine_pid, budget(worker)) == (engine, whole)


def test_a_plain_worker_takes_a_share_and_gives_it_back(site: Site, whole: int) -> None:
    """For as long as it runs a job."""
    job_id = site.submit(max_tokens=3000)
    with site.worker(kind=PLAIN, wait=False):
        site.until_tokens([job_id], 3)
        (share,) = held(site).values()
        assert re.fullmatch("plain-[0-9a-f]{12}", share.worker) and share.share_bytes == whole
        assert site.text(job_id)
        wait_until(lambda: held(site) == {}, "its share given back")


def test_a_plain_worker_without_room_lets_its_job_wait(site: Site, whole: int) -> None:
    """The failure says who holds the memory; the job is not failed, nor listed twice, and runs when there is room."""
    with site.worker(queues=["batch"]) as holder:
        job_id = site.submit(max_tokens=3)
        with site.worker(kind=PLAIN, wait=False, queues=["standard"], lease_seconds=2) as plain:
            wait_until(lambda: plain.log.count("waits again") >= 2, "two refusals", 40)
            assert f"{job_id} waits again: no room for worker plain-" in plain.log
            assert f"worker {holder.name} (pid {holder.process.pid}) holds " in plain.log
            wait_until(lambda: site.get(job_id).state is State.QUEUED, "it waits again")
            listed: Any = site.connection.lrange("rq:queue:standard", 0, -1)
            assert listed.count(job_id.encode()) <= 1
            stop(holder)
            assert site.text(job_id)
    assert Job.fetch(job_id, connection=site.connection, serializer=JSONSerializer).is_finished
