"""Ends: one result, one terminal event, and RQ's own books in order."""

from __future__ import annotations

import time
from typing import Any

import pytest
from redis import Redis
from rq.job import JobStatus
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    StartedJobRegistry,
)
from rq.results import Result
from rq.serializers import JSONSerializer

from scheduler import fleet
from scheduler.errors import ClientError
from scheduler.holding import Progress
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.queue import JOBS_KEY, JobQueue
from scheduler.reasons import Reason
from scheduler.strays import mend
from tests.key_leaks import LASTING
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, nothing_waits, rq_view

ERROR = ClientError("insufficient_memory", "insufficient memory: ünï", retry_after=7, limit_bytes=5).body()
TEXT = {"text": "naïve 🌊\u2028\u0000", "finish_reason": "stop"}
ENDS: dict[State, tuple[Outcome, JobStatus, type[BaseRegistry]]] = {
    State.COMPLETED: (Outcome(State.COMPLETED, TEXT), JobStatus.FINISHED, FinishedJobRegistry),
    State.INCOMPLETE: (Outcome(State.INCOMPLETE, TEXT), JobStatus.FINISHED, FinishedJobRegistry),
    State.FAILED: (Outcome(State.FAILED, error=ERROR), JobStatus.FAILED, FailedJobRegistry),
    State.CANCELLED: (Outcome(State.CANCELLED), JobStatus.STOPPED, FailedJobRegistry),
}
REGISTRIES = (StartedJobRegistry, FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry)


def books(connection: Redis, job_id: str) -> list[type[BaseRegistry]]:
    """The registries that have a job."""
    made = [kind("standard", connection=connection, serializer=JSONSerializer) for kind in REGISTRIES]
    return [type(each) for each in made if job_id in each.get_job_ids(cleanup=False)]


def lapse(lifecycle: Lifecycle) -> None:
    """Let every time to live run out: keys, RQ's registries, and what tidegate tidies."""
    connection = lifecycle.connection
    for key in connection.scan_iter():
        if connection.ttl(key) >= 0:
            connection.delete(key)
    for kind in REGISTRIES[1:]:
        kind("standard", connection=connection, serializer=JSONSerializer).cleanup(time.time() + 1e6)
    mend(lifecycle.queue)
    fleet.live_workers(connection)


@pytest.mark.parametrize("state", ENDS)
def test_rq_reads_the_end_as_its_own(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, state: State
) -> None:
    """Status, result and registry; no execution is left; our own reading gives the same outcome."""
    outcome, status, registry = ENDS[state]
    held = worker.claim(submit().id)
    worker.say(held, "a")
    worker.end(held, outcome)
    job = rq_view(connection, held.rec.id)
    assert job.get_status() is status
    assert books(connection, held.rec.id) == [registry]
    assert job.ended_at is not None
    assert job.started_at is not None
    assert job.get_executions() == []
    result = job.latest_result()
    assert result is not None
    success = status is JobStatus.FINISHED
    assert result.type is (Result.Type.SUCCESSFUL if success else Result.Type.FAILED)
    assert result.worker_name == "one"
    assert result.return_value == {"state": state.value, "result": outcome.result, "error": outcome.error}
    if state is State.FAILED:
        assert result.exc_string == "insufficient memory: ünï"
    read = queue.fetch(held.rec.id)
    assert (read.state, read.outcome, read.lease) == (state, outcome, None)
    assert read.meta.reserved_bytes == 0
    assert read.meta.ended_at is not None
    assert kinds(connection, held.rec.id)[-2:] == ["delta", state.value]


def test_a_job_cancelled_while_it_waits_is_rqs_canceled_job(
    connection: Redis, lifecycle: Lifecycle, submit: Submit
) -> None:
    """It never ran: RQ's word for that is canceled, not stopped."""
    rec = lifecycle.cancel(submit().id)
    assert rq_view(connection, rec.id).get_status() is JobStatus.CANCELED
    assert books(connection, rec.id) == [CanceledJobRegistry]
    assert (rec.state, rec.outcome) == (State.CANCELLED, Outcome(State.CANCELLED))


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
def test_a_job_ends_once(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, first: State, second: State
) -> None:
    """Whoever comes second changes nothing: one terminal event, one result."""
    held = worker.claim(submit().id)
    late = worker.holding.prepare([Progress(held, outcome=ENDS[second][0])])
    held.number -= 1
    worker.end(held, ENDS[first][0])
    assert worker.holding.send(late, [held]) == [held]
    assert kinds(connection, held.rec.id) == ["queued", "started", first.value]
    assert queue.fetch(held.rec.id).outcome == ENDS[first][0]
    assert Result.count(rq_view(connection, held.rec.id)) == 1


def test_what_ended_lapses(connection: Redis, submit: Submit, worker: PretendWorker) -> None:
    """The job, its log and its result are kept for the settings' time, and not longer."""
    held = worker.claim(submit().id)
    worker.complete(held, "a")
    owned = [f"rq:job:{held.rec.id}", f"rq:results:{held.rec.id}", f"tidegate:events:{held.rec.id}"]
    assert all(590 < connection.ttl(key) <= 600 for key in owned)


def test_a_job_that_runs_does_not_lapse(connection: Redis, submit: Submit, worker: PretendWorker) -> None:
    """However long it takes."""
    rec = submit()
    worker.claim(rec.id)
    assert connection.ttl(f"rq:job:{rec.id}") == connection.ttl(f"tidegate:events:{rec.id}") == -1


def test_nothing_lives_for_ever_without_an_owner(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """Jobs that took every way through the states; when all times are up, nothing of them is left (rule 7)."""
    for state in ENDS:
        held = worker.claim(submit(queue_timeout=60).id)
        worker.say(held, "a")
        worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
        worker.end(other.claim(held.rec.id), ENDS[state][0])
    lifecycle.cancel(submit(queue_timeout=60).id)
    overtaken, rec = submit(queue_timeout=60), submit()
    seen = lifecycle.get(rec.id)
    passing = other.holding.claim(seen, seen.meta, (overtaken.id,))
    assert passing is not None
    other.complete(passing, "a")
    lifecycle.cancel(overtaken.id)
    assert nothing_waits(lifecycle.queue)
    lapse(lifecycle)
    left: list[Any] = sorted(connection.scan_iter())
    assert [key for key in left if not LASTING.fullmatch(key.decode())] == []
    assert [key for key in left if connection.type(key) == b"zset"] == []
    assert not connection.exists(JOBS_KEY)
    assert [
        key for key in left if b"tidegate" in key and not key.startswith(b"tidegate:waiting:tokens")
    ] == []
