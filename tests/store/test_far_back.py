"""Jobs that wait behind many which this worker cannot run."""

from __future__ import annotations

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from scheduler import shelf
from scheduler.job import PRIORITIES, State
from scheduler.lifecycle import Lifecycle
from scheduler.queue import JobQueue
from scheduler.record import JobRecord
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.test_other_hands import claiming

LARGE = 900_000
"""Tokens that a worker of a GiB could never hold."""

BOUND = 256
"""Jobs of a queue that one look reads."""


def unserve(connection: Redis, *jobs: JobRecord) -> None:
    """Make jobs those of a model that no worker here serves."""
    for rec in jobs:
        job = Job.fetch(rec.id, connection=connection, serializer=JSONSerializer)
        job.meta["model"] = "elsewhere"
        job.save()


def test_jobs_for_a_larger_worker_do_not_hide_one_that_fits_here(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """As many as a claim looks at: they are left to the larger worker, the one behind them runs."""
    other.report(budget_bytes=1 << 40)
    large = [submit(max_tokens=LARGE) for _ in range(lifecycle.settings.claim_lookahead)]
    small = submit()
    claims, ledger = claiming(lifecycle, worker)
    held = claims.claim(ledger, None)
    assert held is not None
    assert held.rec.id == small.id
    assert {rec.state for rec in lifecycle.queue.fetch_many([rec.id for rec in large])} == {State.QUEUED}


def test_what_only_others_can_run_does_not_wait_here(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """A job too large for this worker, or of a model that it does not serve, keeps no burst worker waiting;
    one that it could run does, however far back it stands.
    """
    other.report(budget_bytes=1 << 40)
    submit(max_tokens=LARGE)
    unserve(connection, *(submit() for _ in range(BOUND)))
    claims, ledger = claiming(lifecycle, worker)
    assert not claims.anything_waits(ledger)
    submit()
    assert claims.anything_waits(ledger)


def test_a_cancelled_job_far_back_is_ended_and_hides_nobody(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """What is ended during a look leaves its list, and the look steps over nobody for that."""
    kept = submit()
    unwanted = [submit() for _ in range(BOUND)]
    for rec in unwanted:
        connection.hset(Job.key_for(rec.id), "cancel_requested", 1)
    claims, ledger = claiming(lifecycle, worker)
    assert claims.anything_waits(ledger)
    assert {rec.state for rec in lifecycle.queue.fetch_many([rec.id for rec in unwanted])} == {
        State.CANCELLED
    }
    assert lifecycle.queue.standing(kept).position == 1


def test_every_job_is_looked_at_in_turn(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Behind more jobs of another model than a look reads, one of ours is found by a later look; what comes
    to the front meanwhile is found before it.
    """
    unserve(connection, *(submit() for _ in range(2 * BOUND)))
    far = submit()
    claims, ledger = claiming(lifecycle, worker)
    assert claims.claim(ledger, None) is None
    front = submit()
    connection.lrem("rq:queue:standard", 1, front.id)
    connection.lpush("rq:queue:standard", front.id)
    assert [held.rec.id for _ in range(4) if (held := claims.claim(ledger, None))] == [front.id, far.id]


def test_a_look_that_goes_on_passes_over_nothing_that_is_wanted(
    connection: Redis, queue: JobQueue, submit: Submit
) -> None:
    """A wanted job among the first stays in view, though it is not claimed: those behind have to pass it."""
    first = submit()
    unserve(connection, *(submit() for _ in range(2 * BOUND)))
    submit()

    def look() -> list[str]:
        return [rec.id for jobs in queue.heads(PRIORITIES, 16, ours) for rec, _ in jobs]

    def ours(rec: JobRecord) -> bool:
        return rec.meta.model == MODEL

    assert [look() for _ in range(4)] == [[first.id]] * 4


def test_a_look_at_what_waits_reads_each_request_once(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be megabytes, and workers look every second; the claim reads its own."""
    jobs = [submit().id for _ in range(3)]
    read: list[str] = []
    reads = shelf.read_envelope
    monkeypatch.setattr(shelf, "read_envelope", lambda job, data: read.append(job) or reads(job, data))
    claims, ledger = claiming(lifecycle, worker)
    for _ in range(5):
        assert claims.anything_waits(ledger)
        lifecycle.queue.heads(PRIORITIES, 16)
    assert sorted(read) == jobs
    held = claims.claim(ledger, None)
    assert held is not None
    assert (held.rec.id, held.rec.request.prompt) == (jobs[0], "hi")
