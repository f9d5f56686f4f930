"""What RQ does for a worker that comes back too late, and clocks that were set: no job is moved by either."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from redis import Redis
from rq.executions import Execution
from rq.job import Job

from scheduler import fleet
from scheduler.holding import Held
from scheduler.job import PRIORITIES, State
from scheduler.lifecycle import Lifecycle
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.strays import mend
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import report_idle, snapshot
from workers.metal_worker import MetalWorker
from workers.reporting import Reporting

LEASE_SECONDS = 15.0
HOURS = 100 * 3600.0


def metal(connection: Redis, name: str) -> MetalWorker:
    """RQ's side of a worker; nothing of it is started."""
    return MetalWorker(PRIORITIES, connection=connection, name=name)


def beat(connection: Redis, queue: JobQueue, held: Held) -> None:
    """RQ's heartbeat for a running job, as the worker's loop has it."""
    late = metal(connection, held.lease.worker)
    late.register_birth()
    execution = Execution(str(held.rec.meta.execution_id), held.rec.id, connection, late.name)
    late.maintain_heartbeats(queue.rq_job(held.rec), execution)


@pytest.mark.parametrize("now", ["waiting again", "held by another", "ended", "deleted"])
def test_a_late_heartbeat_of_rqs_moves_nothing(
    connection: Redis,
    lifecycle: Lifecycle,
    queue: JobQueue,
    submit: Submit,
    worker: PretendWorker,
    other: PretendWorker,
    now: str,
) -> None:
    """It says when it was, in the job and in an execution that lapses; no registry takes the attempt up again."""
    rec = submit()
    held = worker.claim(rec.id)
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    if now in {"held by another", "ended"}:
        again = other.claim(rec.id)
        if now == "ended":
            other.complete(again, "x")
    elif now == "deleted":
        lifecycle.delete(rec.id)
    job = Job.key_for(rec.id)
    before, fields = snapshot(connection), connection.hgetall(job)
    beat(connection, queue, held)
    after = snapshot(connection)
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)} - {job.encode()}
    own = {key for key in changed if key.startswith((b"rq:execution:", b"rq:worker:one", b"rq:workers"))}
    assert changed == own
    lasting = {key for key in own if not after[key][1]}
    assert {key.partition(b":")[2].split(b":")[0] for key in lasting} <= {b"workers"}  # who lives
    assert connection.hgetall(job).keys() == fields.keys()
    fields.pop(b"last_heartbeat", None)
    assert fields.items() <= connection.hgetall(job).items()


def test_a_clock_that_was_set_moves_no_job_of_a_live_worker(
    connection: Redis,
    queue: JobQueue,
    submit: Submit,
    worker: PretendWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Days ahead, on the host of a worker that looks after RQ's registries and mends: the others' jobs are theirs."""
    held = worker.claim(submit().id)
    waits = submit()
    before = snapshot(connection)
    monkeypatch.setattr("rq.registry.current_timestamp", lambda: int(time.time() + HOURS))
    monkeypatch.setattr("scheduler.strays.time", SimpleNamespace(time=lambda: time.time() + HOURS))
    metal(connection, "ahead").clean_registries()
    mend(queue)
    after = snapshot(connection)
    assert {key for key in after if not key.startswith(b"rq:clean")} == before.keys()
    assert all(after[key] == before[key] for key in before)
    worker.say(held, "still held")
    assert queue.fetch(waits.id).state is State.QUEUED


class Watch:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.now


def looking(
    reporting: Reporting, watch: Watch, queue: JobQueue, jobs: Sequence[str]
) -> Callable[[float], list[State]]:
    """Reports after so many seconds, and says how the jobs are then."""

    def look(seconds: float) -> list[State]:
        watch.now += seconds
        report_idle(reporting)
        return [queue.fetch(job_id).state for job_id in jobs]

    return look


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """What reports go by."""
    made = Watch()
    monkeypatch.setattr("workers.reporting.time", made)
    return made


def test_leases_that_lapsed_together_give_their_workers_time(
    lifecycle: Lifecycle,
    queue: JobQueue,
    submit: Submit,
    worker: PretendWorker,
    other: PretendWorker,
    watch: Watch,
) -> None:
    """As when the server's clock was set, or it was away: who finds its own lapsed takes no other's for a lease's time."""
    jobs = [submit().id, submit().id]
    worker.claim(jobs[0])
    other.claim(jobs[1])
    reporting = Reporting(lifecycle, "three", PRIORITIES, lambda: 0.0)

    look = looking(reporting, watch, queue, jobs)
    held = [State.IN_PROGRESS, State.IN_PROGRESS]
    assert look(0.0) == held
    for each in ("one", "two", "three"):
        lifecycle.connection.delete(fleet.worker_key(each))
    assert look(LEASE_SECONDS / 2) == held
    worker.report()
    assert look(LEASE_SECONDS / 2) == held
    assert look(LEASE_SECONDS / 2) == [State.IN_PROGRESS, State.QUEUED]
    lifecycle.connection.delete(fleet.worker_key("one"))
    assert look(LEASE_SECONDS / 2) == [State.QUEUED, State.QUEUED]


def test_a_worker_that_is_late_again_and_again_takes_over_all_the_same(
    lifecycle: Lifecycle,
    queue: JobQueue,
    submit: Submit,
    worker: PretendWorker,
    watch: Watch,
) -> None:
    """On a host that is overloaded its lease lapses before each report: the jobs of the dead do not wait for ever."""
    job_id = submit().id
    worker.claim(job_id)
    look = looking(Reporting(lifecycle, "three", PRIORITIES, lambda: 0.0), watch, queue, [job_id])
    assert look(0.0) == [State.IN_PROGRESS]
    lifecycle.connection.delete(fleet.worker_key("one"))
    states = []
    for _ in range(4):
        lifecycle.connection.delete(fleet.worker_key("three"))
        states += look(1.5 * LEASE_SECONDS)
    assert states == [State.IN_PROGRESS, State.IN_PROGRESS, State.IN_PROGRESS, State.QUEUED]
