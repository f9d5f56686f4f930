"""Accepting jobs: the queue's bounds, what RQ sees, who is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from scheduler.bookings import BOOKINGS_KEY
from scheduler.errors import ClientError
from scheduler.fleet import RunningReport
from scheduler.job import PRIORITIES, State
from scheduler.lifecycle import Lifecycle
from scheduler.owner import owner_of
from scheduler.queue import JOB_FUNCTION
from scheduler.reasons import Reason
from scheduler.refusals import AT_ONCE_SECONDS
from scheduler.request import read_request
from scheduler.settings import load
from tests.conftest import MODEL
from tests.pretend_worker import CARD, GIB, PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, rq_view, snapshot
from tests.waiting import Clock

Bounded = Callable[..., Lifecycle]
UNICODE = "naïve 🌊 \u2028\u0000 'quotes\" \\ مرحبا\n"


@pytest.fixture
def bounded(connection: Redis, valkey_url: str, clock: Clock) -> Bounded:
    """The verbs under other settings."""

    def made(**fields: Any) -> Lifecycle:
        return Lifecycle(connection, load(redis_url=valkey_url, models=(MODEL,), **fields), clock)

    return made


def ask(lifecycle: Lifecycle, owner: str = "", **fields: Any) -> str:
    """Submit a job of eleven tokens."""
    body = {"model": MODEL, "prompt": "hi", "max_tokens": 10} | fields
    return lifecycle.submit(read_request(body), owner).id


def running(tokens: int) -> RunningReport:
    """A job that still makes so many."""
    return RunningReport("job_1", MODEL, reserved_bytes=1, remaining_tokens=tokens)


def refused(lifecycle: Lifecycle, owner: str = "", **fields: Any) -> ClientError:
    """Submit a job that is refused; nothing in the store changes, but that a place is held for it."""
    before = snapshot(lifecycle.connection)
    with pytest.raises(ClientError) as caught:
        ask(lifecycle, owner, **fields)
    after = snapshot(lifecycle.connection)
    held = BOOKINGS_KEY.encode()
    assert (held in after) == (held in before or caught.value.code == "queue_full")
    assert after | {held: None} == before | {held: None}
    return caught.value


@pytest.mark.parametrize("priority", PRIORITIES)
def test_a_job_waits_in_rqs_own_queue(connection: Redis, submit: Submit, priority: str) -> None:
    """An ordinary RQ job with the JSON serializer, in the queue of its class, called by name."""
    rec = submit(UNICODE, priority=priority, metadata={"für": "mich 🌊"})
    rq_queue = Queue(priority, connection=connection, serializer=JSONSerializer)
    assert rq_queue.job_ids == [rec.id]
    job = rq_view(connection, rec.id)
    assert (job.get_status(), job.func_name, job.origin) == (JobStatus.QUEUED, JOB_FUNCTION, priority)
    assert job.kwargs["version"] == 1
    assert job.kwargs["request"]["prompt"] == UNICODE
    assert job.meta["work_tokens"] == rec.meta.work_tokens
    assert kinds(connection, rec.id) == ["queued"]


def test_a_job_is_read_as_it_was_accepted(lifecycle: Lifecycle, submit: Submit, clock: Clock) -> None:
    """Request, fields and times; whatever its letters are."""
    rec = submit(UNICODE, metadata={"für": "mich"}, queue_timeout=5, seed=-5)
    read = lifecycle.get(rec.id)
    assert (read.request, read.meta, read.state) == (rec.request, rec.meta, State.QUEUED)
    assert read.request.prompt == UNICODE
    assert (read.meta.seed, read.meta.queue_deadline) == (-5, clock.now + 5)
    assert read.view()["metadata"] == {"für": "mich"}


def test_what_the_api_notes_of_a_job_is_there_later(lifecycle: Lifecycle, worker: PretendWorker) -> None:
    """Beside the request; the worker runs the request all the same."""
    asked = read_request({"model": MODEL, "prompt": "Hello"})
    noted = lifecycle.submit(asked, note={"shown_as": "response", "input": [UNICODE]})
    plain = lifecycle.submit(asked)
    assert worker.claim(noted.id).rec.request == asked
    assert lifecycle.get(noted.id).envelope["note"] == {"shown_as": "response", "input": [UNICODE]}
    assert lifecycle.get(noted.id).request == asked
    assert "note" not in lifecycle.get(plain.id).envelope


def test_the_queue_is_bounded_in_jobs(bounded: Bounded) -> None:
    """The bound is reached exactly; one more is told so, with the numbers and a time to come back."""
    lifecycle = bounded(max_queued_jobs=2)
    ask(lifecycle)
    ask(lifecycle)
    error = refused(lifecycle)
    assert (error.code, error.row.status) == ("queue_full", 503)
    assert error.message.startswith("2 jobs with 22 tokens of work wait; ")
    assert error.retry_after


def test_a_queue_of_one_is_told_of_as_one(bounded: Bounded) -> None:
    """One job waits."""
    lifecycle = bounded(max_queued_jobs=1)
    ask(lifecycle)
    assert refused(lifecycle).message.startswith("1 job with 11 tokens of work waits; at most 1 and ")


def test_the_queue_is_bounded_in_tokens(bounded: Bounded, clock: Clock) -> None:
    """To the token: eleven and eleven fit into twenty-two, and nothing more does."""
    lifecycle = bounded(max_queued_tokens=22)
    ask(lifecycle)
    assert refused(lifecycle, max_tokens=11).code == "queue_full"
    clock.now += 300  # the place that is held for it lapses
    ask(lifecycle)
    assert lifecycle.queue.waiting() == (2, 22)
    assert refused(lifecycle, max_tokens=1).code == "queue_full"


ANN, BOB = owner_of("Bearer ann"), owner_of("Bearer bob")


def test_each_owner_has_a_bound_in_jobs(bounded: Bounded, worker: PretendWorker, clock: Clock) -> None:
    """Over all classes together; others still come in, a claim makes room, and the message says whose bound it is."""
    lifecycle = bounded(max_queued_jobs_per_key=2)
    first = ask(lifecycle, ANN)
    ask(lifecycle, ANN, priority="batch")
    error = refused(lifecycle, ANN)
    assert (error.code, error.row.status) == ("queue_full", 503)
    assert error.retry_after
    assert error.message == (
        "2 jobs with 22 tokens of work wait for this API key; at most 2 jobs of one key may"
    )
    ask(lifecycle, BOB)
    ask(lifecycle)
    ask(lifecycle)
    assert "this API key" in refused(lifecycle).message
    worker.claim(first)
    clock.now += 300  # the places that are held lapse
    ask(lifecycle, ANN)
    assert refused(lifecycle, ANN).code == "queue_full"


def test_each_owner_has_a_bound_in_tokens(bounded: Bounded, clock: Clock) -> None:
    """To the token, like the queue's."""
    lifecycle = bounded(max_queued_tokens_per_key=22, max_queued_jobs_per_key=9)
    ask(lifecycle, ANN)
    assert refused(lifecycle, ANN, max_tokens=11).message.endswith(
        "at most 9 jobs and 22 tokens of one key may"
    )
    clock.now += 300
    ask(lifecycle, ANN)
    assert lifecycle.queue.owned(ANN) == (2, 22)
    assert refused(lifecycle, ANN, max_tokens=1).code == "queue_full"
    ask(lifecycle, BOB)


def test_a_full_queue_is_not_said_to_be_an_owners(bounded: Bounded) -> None:
    """Where both bounds are met, it is the whole queue's that counts: another key would not help."""
    lifecycle = bounded(max_queued_jobs=1, max_queued_jobs_per_key=1)
    ask(lifecycle, ANN)
    assert "API key" not in refused(lifecycle, ANN).message


def test_a_claim_makes_room(bounded: Bounded, worker: PretendWorker) -> None:
    """Running jobs do not count as waiting; a shed job comes back though the queue is full."""
    lifecycle = bounded(max_queued_jobs=1)
    first = ask(lifecycle)
    held = worker.claim(first)
    second = ask(lifecycle)
    swap = worker.holding.put_back(held, Reason.MEMORY)
    assert worker.holding.send([swap], [held]) == []
    assert lifecycle.queue.waiting()[0] == 2
    assert refused(lifecycle).code == "queue_full"
    assert [lifecycle.queue.standing(lifecycle.get(each)).position for each in (first, second)] == [1, 2]


def test_an_unlisted_model_is_not_found(lifecycle: Lifecycle) -> None:
    """404; listed here or served by a live worker is enough."""
    error = refused(lifecycle, model="nobody's")
    assert (error.code, error.param) == ("model_not_found", "model")


def test_a_job_that_never_fits_is_refused_with_both_numbers(
    lifecycle: Lifecycle, worker: PretendWorker
) -> None:
    """413 before anything is queued."""
    worker.report(budget_bytes=CARD.weights_bytes + 1000)
    error = refused(lifecycle)
    assert (error.code, error.row.status) == ("memory_never_fits", 413)
    assert error.numbers["limit_bytes"] == CARD.weights_bytes + 1000
    assert float(str(error.numbers["estimated_bytes"])) > CARD.weights_bytes + 1000


def test_without_a_worker_a_job_waits_where_the_operator_allows_it(bounded: Bounded) -> None:
    """By default it is queued; else 503 ``no_worker``."""
    ask(bounded())
    assert refused(bounded(queue_without_worker=False)).code == "no_worker"


def test_a_job_that_would_rather_fail_does_not_wait(
    lifecycle: Lifecycle, worker: PretendWorker, clock: Clock
) -> None:
    """``on_insufficient_memory: fail``: accepted onto free memory, refused behind a queue."""
    rec = ask(lifecycle, on_insufficient_memory="fail")
    behind = refused(lifecycle, on_insufficient_memory="fail")
    assert (behind.code, "1 job that waits comes first" in behind.message) == ("insufficient_memory", True)
    urgent = ask(lifecycle, on_insufficient_memory="fail", priority="interactive")  # what waits comes later
    worker.claim(urgent)
    worker.claim(rec)
    ask(lifecycle, on_insufficient_memory="fail")


def test_a_job_that_would_rather_fail_and_lost_its_room_to_another_ends_soon(
    lifecycle: Lifecycle, worker: PretendWorker, clock: Clock
) -> None:
    """It was accepted onto memory that a job had by then; one that ran once goes on as others do."""
    begun = ask(lifecycle, on_insufficient_memory="fail")
    held = worker.claim(begun)
    rec, brief = (
        ask(lifecycle, on_insufficient_memory="fail", priority=name, queue_timeout=seconds)
        for name, seconds in (("standard", 60), ("interactive", 1.5))
    )
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    clock.now += AT_ONCE_SECONDS - 0.1
    assert lifecycle.end_overdue() == [brief]
    clock.now += 0.2
    assert lifecycle.end_overdue() == [rec]
    errors = [outcome.error for each in (brief, rec) if (outcome := lifecycle.get(each).outcome)]
    assert [error and error["code"] for error in errors] == ["queue_timeout", "insufficient_memory"]
    assert errors[1] is not None
    assert errors[1]["message"].endswith("and it had not started within 2 s")
    assert errors[1]["limit_bytes"] == GIB - CARD.weights_bytes > errors[1]["estimated_bytes"] > 0
    clock.now += 3600
    assert lifecycle.end_overdue() == []


def test_a_job_that_would_rather_fail_needs_a_place_as_well(
    lifecycle: Lifecycle, worker: PretendWorker
) -> None:
    """Memory is free, and the batch is full; it is told when its first job ends."""
    worker.report(max_batch=2, tokens_per_second=20.0, running=(running(600), running(900)))
    error = refused(lifecycle, on_insufficient_memory="fail")
    assert error.message.endswith("and every place beside the running jobs is taken")
    assert 60 <= error.retry_after <= 80


def test_who_waited_too_long_is_not_told_to_wait_for_itself(
    lifecycle: Lifecycle, worker: PretendWorker, clock: Clock
) -> None:
    """Alone in the queue it comes next, when the running job ends."""
    rec = ask(lifecycle, on_insufficient_memory="fail")
    clock.now += AT_ONCE_SECONDS + 0.1
    worker.report(max_batch=1, tokens_per_second=10.0, running=(running(600),))
    assert lifecycle.end_overdue() == [rec]
    outcome = lifecycle.get(rec).outcome
    assert outcome is not None and outcome.error is not None
    assert 60 <= outcome.error["retry_after"] <= 80


def test_the_seconds_begin_when_a_job_comes_in(
    lifecycle: Lifecycle, worker: PretendWorker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its form was tried before."""

    def try_long(_: object) -> None:
        clock.now += 2 * AT_ONCE_SECONDS

    monkeypatch.setattr("scheduler.lifecycle.refuse_ungrammatical", try_long)
    rec = ask(lifecycle, on_insufficient_memory="fail")
    assert lifecycle.get(rec).state is State.QUEUED


def test_the_place_counts_every_more_urgent_class(lifecycle: Lifecycle, submit: Submit) -> None:
    """An interactive job stands before all; the last batch job behind all."""
    names = ("batch", "standard", "interactive", "standard")
    jobs = [submit(priority=name) for name in names]
    assert [lifecycle.view(rec)["queue"]["position"] for rec in jobs] == [4, 2, 1, 3]


def test_what_waits_is_counted_by_class(lifecycle: Lifecycle, submit: Submit, worker: PretendWorker) -> None:
    """Jobs and tokens of work of each; a claim takes its own away, a job put back brings them again."""
    for name, more in (("standard", 10), ("standard", 20), ("batch", 40)):
        submit(priority=name, max_tokens=more)
    counts = {"interactive": (0, 0), "standard": (2, 32), "batch": (1, 41)}
    assert lifecycle.queue.waiting_by_class() == counts
    held = worker.claim()
    assert lifecycle.queue.waiting_by_class() == {**counts, "standard": (1, 21)}
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    assert lifecycle.queue.waiting_by_class() == counts
