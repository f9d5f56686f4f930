"""The fleet as the API reads it: which worker counts for which job, whose report counts at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from redis import Redis
from structlog.testing import capture_logs

from scheduler import fleet
from scheduler.batch_account import Holder
from scheduler.errors import ClientError
from scheduler.foresight import Row
from scheduler.job import PRIORITIES, State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.record import JobRecord
from scheduler.request import read_request
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.plans import WORST_CASE
from tests.pretend_worker import CARD, GIB, PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import nothing_waits, report_idle
from tests.waiting import Clock
from workers.claiming import Claiming
from workers.reporting import Reporting
from workers.residency import Residency


def listens(worker: PretendWorker, *queues: str, budget_bytes: int = GIB) -> None:
    """A worker that lives, and takes jobs from these queues alone."""
    said = replace(worker.report(budget_bytes), queues=queues)
    fleet.report(worker.connection, said, 60.0)


def ask(lifecycle: Lifecycle, **fields: str) -> JobRecord:
    return lifecycle.submit(read_request({"model": MODEL, "prompt": "hi", "max_tokens": 10} | fields))


@pytest.fixture
def strict(connection: Redis, settings: Settings, clock: Clock) -> Lifecycle:
    """Where no job is queued that nobody takes."""
    return Lifecycle(connection, settings.model_copy(update={"queue_without_worker": False}), clock)


def test_a_worker_counts_for_the_classes_that_it_listens_to(strict: Lifecycle, worker: PretendWorker) -> None:
    """Serving the model is not enough: what it does not listen to would wait for ever."""
    listens(worker, "batch", "default")
    with pytest.raises(ClientError, match="no live worker takes standard jobs") as caught:
        ask(strict)
    assert (caught.value.code, caught.value.row.status) == ("no_worker", 503)
    assert nothing_waits(strict.queue)
    ask(strict, priority="batch")


def test_a_job_is_measured_by_those_that_take_it(
    lifecycle: Lifecycle, worker: PretendWorker, other: PretendWorker
) -> None:
    """A large worker that listens elsewhere does not make a job fit."""
    listens(worker, "standard", budget_bytes=CARD.weights_bytes + 1000)
    listens(other, "batch")
    with pytest.raises(ClientError) as caught:
        ask(lifecycle)
    assert caught.value.code == "memory_never_fits"
    assert caught.value.numbers["limit_bytes"] == CARD.weights_bytes + 1000
    ask(lifecycle, priority="batch")


def test_a_model_that_those_who_listen_cannot_load_fails_its_jobs(
    lifecycle: Lifecycle, clock: Clock, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """Another worker that has it helps only where it takes the job's class."""
    rec, theirs = submit(), submit(priority="batch")
    listens(other, "batch")
    listens(worker)
    clock.now += 1.0
    residency = Residency({MODEL: "/srv/secret/none"}, lambda _: None)
    claims = Claiming(lifecycle, worker.holding, PRIORITIES, lifecycle._clock, residency, WORST_CASE)
    ledger = Ledger(GIB, 512, 4)
    claims.load_wanted(ledger)
    claims.forget()
    assert claims.claim(ledger, None) is None
    ended = lifecycle.get(rec.id)
    assert ended.outcome is not None and ended.outcome.error is not None
    assert ended.outcome.error["code"] == "model_not_found"
    assert "secret" not in str(ended.outcome.error)
    assert lifecycle.get(theirs.id).state is State.QUEUED


@pytest.mark.parametrize("text", [b"rubbish", b"{}", b'{"name": "two", "served": []}'], ids=repr)
def test_a_report_that_cannot_be_read_is_left_out(
    connection: Redis, lifecycle: Lifecycle, worker: PretendWorker, other: PretendWorker, text: bytes
) -> None:
    """Of another version, or rubbish: the others count, jobs are taken, and the log says so once."""
    connection.set(fleet.worker_key(other.name), text, px=60_000)
    fleet._complain.cache_clear()
    with capture_logs() as logged:
        for _ in range(3):
            assert [report.name for report in fleet.live_workers(connection)] == [worker.name]
    assert [line["worker"] for line in logged] == [other.name]
    ask(lifecycle)
    assert fleet.is_alive(connection, other.name)


def test_a_worker_names_the_limit_that_it_goes_by(lifecycle: Lifecycle, worker: PretendWorker) -> None:
    """The budget that it tells is that limit's, before its account is opened and after."""
    reporting = Reporting(lifecycle, "three", PRIORITIES, lambda: 0.0)
    limits = {"host_total": 900, "host_available": 300}
    steady = {"budget_bytes": 300, "steady_source": "host_total", "steady_bytes": 900}
    reporting.ready({"kind": "ready", "limits_bytes": limits, **steady})
    for ledger in (None, Ledger(900, 16, 1)):
        reporting.changed()
        report_idle(reporting, "ready", ledger)
        (said,) = [each for each in fleet.live_workers(lifecycle.connection) if each.name == "three"]
        assert said.budget_bytes == limits[said.budget_source] == 900


def test_a_report_gives_back_what_time_has_freed(lifecycle: Lifecycle) -> None:
    """A job near its end reserves what it can still come to need, not what it could at its start."""
    reporting = Reporting(lifecycle, "four", PRIORITIES, lambda: 0.0)
    ledger, holder = Ledger(1 << 40, 512, 1), Holder("job_a", 1)
    ledger.admit_model(replace(CARD, chunk_bytes=((512, 1 << 24),)))
    ledger.reserve(holder, CARD.model, Row(500, 10))
    before = ledger.reserved_bytes
    ledger.advance(holder, 505)
    report_idle(reporting, "ready", ledger)
    (said,) = [each for each in fleet.live_workers(lifecycle.connection) if each.name == "four"]
    assert said.reserved_bytes == ledger.reserved_bytes < before


def test_a_report_tells_what_holds_a_worker_back(lifecycle: Lifecycle) -> None:
    """What running out of memory left of the budget, by the clock, and until when no engine is started."""
    reporting = Reporting(lifecycle, "five", PRIORITIES, lambda: 1000.0)
    ledger = Ledger(1 << 30, 512, 1)
    ledger.ran_out(990.0)
    for seconds in (20.0, 0.0):
        reporting.changed()
        report_idle(reporting, "cooling down", ledger, cooling_seconds=seconds)
        (said,) = [each for each in fleet.live_workers(lifecycle.connection) if each.name == "five"]
        assert said.working_bytes == int(0.9 * (1 << 30))
        assert said.cools_until == said.view().cools_until == (1020.0 if seconds else 0.0)


def test_a_report_of_an_earlier_version_lacks_what_came_later(worker: PretendWorker) -> None:
    """It counts all the same: nothing holds such a worker back."""
    fields = json.loads(worker.report().dump())
    del fields["working_bytes"], fields["cools_until"]
    said = fleet.WorkerReport.parse(json.dumps(fields).encode())
    assert (said.working_bytes, said.cools_until) == (None, 0.0)
