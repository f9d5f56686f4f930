"""What a worker's loop does as time passes, its engine played by the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from rq.job import Job

from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.owner import owner_of
from scheduler.request import read_request
from tests.conftest import MODEL
from tests.keys import make_key
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from workers.runner import TICK_SECONDS, Runner
from workers.supervisor import LOAD_SECONDS, Supervisor
from workers.wire import Message


class Mute(Supervisor):
    """An engine that listens and says nothing; what it is told and how long it may be silent is kept."""

    said: list[str]
    scopes: list[str]
    limits: list[float]

    @property
    def running(self) -> bool:
        return True

    def send(self, message: Message) -> None:
        self.said.append(message["kind"])
        self.scopes += [message["scope"]] if message["kind"] == "run" else []

    def kill_if_silent(self, seconds: float) -> bool:
        self.limits.append(seconds)
        return False


@pytest.fixture
def passing() -> list[float]:
    """The monotonic clock's seconds, in a list of one."""
    return [1000.0]


@pytest.fixture
def engine(lifecycle: Lifecycle, passing: list[float]) -> Mute:
    made = Mute(lifecycle.settings, lambda: passing[0])
    made.said, made.scopes, made.limits = [], [], []
    return made


@pytest.fixture
def runner(lifecycle: Lifecycle, engine: Mute) -> Iterator[Runner]:
    """A worker whose engine is ready."""
    made = Runner(lifecycle, "one", ["standard"], engine=lambda _: engine)
    made._desk.ledger = Ledger(1 << 30, 512, 4)
    yield made
    made.close()


def test_a_busy_engine_is_asked_for_the_hosts_memory_too(
    passing: list[float], runner: Runner, engine: Mute, worker: PretendWorker, submit: Submit
) -> None:
    """Every ten seconds, with or without a job; not while it loads, since it would not answer."""
    held = worker.claim(submit().id)
    runner._desk.take(held)
    for _ in range(21):
        runner._tick()
        passing[0] += TICK_SECONDS
    assert engine.said == ["measure"] * 3
    runner._residency.loading = "b"
    passing[0] += 10
    runner._tick()
    assert engine.said == ["measure"] * 3
    worker.complete(held, "")


def test_a_running_job_has_its_deadline_until_a_load_begins(
    runner: Runner, engine: Mute, worker: PretendWorker, submit: Submit
) -> None:
    """A load that was asked for may stand behind a step that hangs; once begun, or with no job to wait for
    it, it may be silent for as long as a download takes.
    """
    runner._residency.loading = "b"
    runner._tick()
    held = worker.claim(submit().id)
    runner._desk.take(held)
    runner._tick()
    for kind in ("loading", "loaded", "loading", "load_failed"):
        engine.account.note({"kind": kind, "model": "b"})
        runner._tick()
    usual, long = runner.settings.progress_timeout, LOAD_SECONDS
    assert engine.limits == [long, usual, long, usual, long, usual]
    worker.complete(held, "")


def test_the_engine_is_told_whose_prompts_a_job_may_share(
    lifecycle: Lifecycle, connection: Redis, runner: Runner, engine: Mute, worker: PretendWorker
) -> None:
    """Those of its API key; where there are no keys all jobs are alike, whatever token came with them."""
    request = read_request({"model": MODEL, "prompt": "hi", "max_tokens": 4})
    owners = ["", owner_of("Bearer ann")]
    ids = [lifecycle.submit(request, owner).id for owner in owners]
    _, key = make_key(connection)
    another = Lifecycle(connection, lifecycle.settings)  # that one thinks for a second that there are none
    ids.append(another.submit(request, key.owner).id)
    for job_id in ids:
        held = worker.claim(job_id)
        runner._desk.take(held)
        runner.launch(held)
        worker.complete(held, "")
    assert engine.scopes == ["", "", key.owner]


def test_an_idle_worker_mends_what_others_left(
    passing: list[float], runner: Runner, connection: Redis, submit: Submit
) -> None:
    """RQ's own loop comes to it between two jobs alone."""
    rec = submit()
    connection.hset(Job.key_for(rec.id), "status", "canceled")
    runner._next_mend = passing[0] + 60
    runner._tick()
    assert connection.ttl(Job.key_for(rec.id)) == -1
    passing[0] += 60
    runner._tick()
    assert connection.ttl(Job.key_for(rec.id)) > 0
