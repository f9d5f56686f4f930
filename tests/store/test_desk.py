"""The jobs in hand whose stored requests others wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from scheduler.blame import Failure, Fault
from scheduler.completions import Answers
from scheduler.errors import StoreUnavailable
from scheduler.events import read_events
from scheduler.foresight import Row
from scheduler.holding import Held, Progress
from scheduler.job import State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from tests.plans import WORST_CASE, learned
from tests.pretend_worker import CARD, PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, rq_view
from workers.desk import Desk, key_of
from workers.planning import Planning
from workers.reporting import Reporting

RUBBISH = ["x", [], {}, None]


@pytest.fixture
def desk(lifecycle: Lifecycle, worker: PretendWorker) -> Desk:
    """A worker's desk, an hour ahead of its claims; nobody listens to what it tells the engine."""
    reporting = Reporting(lifecycle, worker.name, (), lambda: 0.0)
    return Desk(
        lifecycle,
        worker.holding,
        reporting,
        lambda _: None,
        WORST_CASE,
        lambda: worker.holding._clock() + 3600,
    )


def rewrite(connection: Redis, job_id: str, **fields: Any) -> None:
    """Change a stored request."""
    job = rq_view(connection, job_id)
    job.kwargs = {**job.kwargs, "request": job.kwargs["request"] | fields}
    job.save()


@pytest.mark.parametrize("limit", RUBBISH, ids=str)
def test_a_run_timeout_that_is_no_number_stops_nobody(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, desk: Desk, limit: Any
) -> None:
    """It is none; a job behind it, with a sound one, is ended by it."""
    broken, late = submit(), submit(run_timeout=60)
    rewrite(connection, broken.id, run_timeout=limit)
    held = [desk.take(worker.claim(rec.id)) for rec in (broken, late)]
    desk.end_unwanted()
    assert list(desk.running) == [key_of(held[0])]
    ended = queue.fetch(late.id)
    assert (ended.state, ((ended.outcome and ended.outcome.error) or {})["code"]) == (
        State.FAILED,
        "run_timeout",
    )


def test_a_run_timeout_counts_every_attempt(
    queue: JobQueue, submit: Submit, worker: PretendWorker, desk: Desk
) -> None:
    """A job that was put back does not have its time again; what it waited meanwhile is not counted."""
    rec = submit(run_timeout=60)
    now = [1000.0]
    worker.holding._clock = desk._clock = lambda: now[0]
    for ran_seconds in (40.0, 15.0):
        held = desk.take(worker.claim(rec.id))
        now[0] += ran_seconds
        desk.end_unwanted()
        desk.put_back(held, Reason.MEMORY)
        now[0] += 1000.0
    assert queue.fetch(rec.id).meta.ran_seconds == 55.0
    desk.take(worker.claim(rec.id))
    now[0] += 5.0
    desk.end_unwanted()
    assert queue.fetch(rec.id).state is State.IN_PROGRESS
    now[0] += 0.1
    desk.end_unwanted()
    ended = queue.fetch(rec.id).outcome
    assert ended is not None and ended.error is not None
    assert (ended.error["code"], ended.error["retryable"]) == ("run_timeout", False)
    assert ended.error["message"] == "the job ran for 60.1 s; its run_timeout is 60 s"


@pytest.mark.parametrize("most", RUBBISH, ids=str)
def test_attempts_that_are_no_number_are_the_settings(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, desk: Desk, most: Any
) -> None:
    """The job waits for its next attempt, and a sound wish for one attempt is heard."""
    broken, once = submit(), submit(max_attempts=1)
    rewrite(connection, broken.id, max_attempts=most)
    for rec in (broken, once):
        held = desk.take(worker.claim(rec.id))
        desk.judge([held], Failure(Fault.BUG, died=False, company=1))
    assert [queue.fetch(rec.id).state for rec in (broken, once)] == [State.QUEUED, State.FAILED]


@pytest.mark.parametrize("ends", [False, True])
def test_what_was_given_up_at_a_stop_is_written_first_where_the_store_is_back(
    connection: Redis,
    submit: Submit,
    worker: PretendWorker,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    ends: bool,
) -> None:
    """Told to stop in an outage, a worker gives a step up; the job's log has no gap, and an end is its end."""
    held = desk.take(worker.claim(submit().id))
    desk.insistence.patient = lambda: False
    outcome = Outcome(State.COMPLETED, {"text": "a", "finish_reason": "stop", "usage": {}}) if ends else None

    def away(*_: object) -> list[Held]:
        raise StoreUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(worker.holding, "send", away)
        with pytest.raises(StoreUnavailable):
            desk.write([Progress(held, {"text": "a", "tokens": [1]}, outcome)])
    desk.put_back_all(Reason.WORKER_STOPPED)
    assert kinds(connection, held.rec.id) == [
        "queued",
        "started",
        "delta",
        "completed" if ends else "requeued",
    ]
    assert [event.number for event in read_events(connection, held.rec.id)] == [1, 2, 3, 4]
    assert not desk.running


def test_a_job_taken_up_again_is_as_far_as_this_attempt_has_come(
    desk: Desk, submit: Submit, worker: PretendWorker
) -> None:
    """Its earlier tokens are computed anew, as a part of the prompt: until they are, they are not done."""
    held = worker.claim(submit(max_tokens=4000).id)
    meta = replace(held.rec.meta, prompt_tokens=6000)
    held = replace(held, rec=replace(held.rec, meta=meta), tokens=[1] * 2000, resumed_tokens=2000)
    desk.ledger = Ledger(1 << 40, 512, 1)
    desk.ledger.admit_model(CARD)
    desk.ledger.reserve(held.holder, CARD.model, Row(8000, 2000))
    desk.take(held)
    for told, done in ((512, 512), (7999, 7999)):
        desk.note_progress({"computed": {f"{held.rec.id}/{held.lease.attempt}": told}})
        desk.tell_progress()
        assert desk.ledger.holders[held.holder].cached_tokens == done
    held.tokens.append(5)
    desk.tell_progress()
    assert desk.ledger.holders[held.holder].cached_tokens == 8001


def test_what_a_prompt_reuses_is_known_and_is_nobodys_work(
    desk: Desk, submit: Submit, worker: PretendWorker
) -> None:
    """The account counts it as computed, and the pace does not: else the next prompt would be promised too soon."""
    held = worker.claim(submit().id)
    desk.ledger = Ledger(1 << 40, 512, 1)
    desk.ledger.admit_model(CARD)
    desk.ledger.reserve(held.holder, CARD.model, Row(8000, 2000))
    desk.take(held)
    key = f"{held.rec.id}/{held.lease.attempt}"
    assert desk.note_progress({"computed": {key: 6100}, "reused": {key: 6000}}) == 100
    assert desk.note_progress({"computed": {key: 6612}}) == 512
    desk.tell_progress()
    assert desk.ledger.holders[held.holder].cached_tokens == 6612


def test_the_account_takes_how_the_engines_caches_are(
    desk: Desk, submit: Submit, worker: PretendWorker
) -> None:
    """As it came through the pipe: a row beside which others ended is as long as they were, until it moves on."""
    held = worker.claim(submit(max_tokens=200).id)
    desk.ledger = Ledger(1 << 40, 512, 1)
    desk.ledger.admit_model(CARD)
    desk.ledger.reserve(held.holder, CARD.model, Row(100, 200))
    desk.take(held)
    computed, group = {f"{held.rec.id}/{held.lease.attempt}": 99}, CARD.caches[0].bytes_per_token
    told: list[int] = []
    for at in (100, 2100):
        caches = [[1, 99, [[at, at, at + 56, False]]], None]
        desk.note_progress({"computed": computed, "extents": {CARD.model: caches}})
        desk.tell_progress()
        newcomer = Row(100, 200)
        told.append(desk.ledger.marginal_bytes(CARD.model, newcomer))
    assert told[1] - told[0] > 1700 * group


def test_a_preempted_job_waits_first_and_knows_it(
    queue: JobQueue, submit: Submit, worker: PretendWorker, desk: Desk
) -> None:
    """Its memory is free at once; what it made stays, and it stands before those that came after it."""
    kept, gone, behind = (submit(priority="batch", max_tokens=20) for _ in range(3))
    desk.ledger = Ledger(1 << 40, 512, 1)
    desk.ledger.admit_model(CARD)
    held = [desk.take(worker.claim(rec.id)) for rec in (kept, gone)]
    for each in held:
        desk.ledger.reserve(each.holder, CARD.model, each.rec.row)
        worker.say(each, "a")
    assert [(each.priority, each.preemptions) for each in desk.preemptible] == [("batch", 0)] * 2
    desk.preempt([held[1].holder])
    assert desk.find([key_of(each) for each in held]) == [held[0]]
    assert (list(desk.ledger.holders), desk.freed) == ([held[0].holder], True)
    rec = queue.fetch(gone.id)
    assert (rec.state, rec.meta.preemptions, rec.meta.sheds, rec.meta.made_tokens) == (State.QUEUED, 1, 0, 1)
    assert queue.rq_queue("batch").job_ids == [gone.id, behind.id]
    assert kinds(queue.connection, gone.id) == ["queued", "started", "delta", "requeued"]
    again = desk.take(worker.claim(gone.id))
    assert [each.preemptions for each in desk.preemptible] == [0, 1]
    assert (again.resumed_tokens, again.lease.attempt) == (1, 2)


def test_an_answer_that_goes_on_is_planned_anew(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Where it is longer than all that are known, it is taken to be half way; the account holds so much more."""
    reporting = Reporting(lifecycle, worker.name, (), lambda: 0.0)
    desk = Desk(lifecycle, worker.holding, reporting, lambda _: None, learned(300), lambda: 0.0)
    held = desk.take(worker.claim(submit(max_tokens=4000).id))
    desk.ledger = Ledger(1 << 40, 512, 1)
    desk.ledger.admit_model(CARD)
    desk.ledger.reserve(held.holder, CARD.model, Row(7, 300))
    reserved = []
    for made, planned in ((100, 300), (300, 600), (900, 1800), (2500, 4000)):
        held.tokens[:] = [1] * made
        desk.tell_progress()
        assert desk.ledger.holders[held.holder] == Row(7, planned, 7 + made)
        reserved.append(desk.ledger.reserved_bytes)
    assert reserved == sorted(set(reserved))


def test_what_others_complete_is_planned_with_though_a_job_stands_still(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """The account hears of it at the next look, whether or not the job has made a token since."""
    lessons = [learned(300)]

    def answers(model: str) -> Answers:
        return lessons[-1].answers(model)

    planning = Planning(learned().reserving, answers)
    reporting = Reporting(lifecycle, worker.name, (), lambda: 0.0)
    desk = Desk(lifecycle, worker.holding, reporting, lambda _: None, planning, lambda: 0.0)
    held = desk.take(worker.claim(submit(max_tokens=4000).id))
    desk.ledger = Ledger(1 << 40, 512, 1)
    desk.ledger.admit_model(CARD)
    desk.ledger.reserve(held.holder, CARD.model, Row(7, 300))
    for longest in (300, 700, 200):
        lessons.append(learned(longest))
        desk.tell_progress()
        assert desk.ledger.holders[held.holder].max_tokens == longest


def test_a_desk_knows_how_much_company_its_jobs_may_have(
    desk: Desk, worker: PretendWorker, submit: Submit
) -> None:
    """Of those that are bound alone; with one that may have none, nothing else is begun."""
    held = [desk.take(worker.claim(submit().id)) for _ in range(3)]
    assert (desk.bounds, desk.lonely) == ({}, False)
    held[0].rec = replace(held[0].rec, meta=replace(held[0].rec.meta, company_most=3))
    assert (desk.bounds, desk.lonely) == ({held[0].holder: 3}, False)
    held[1].rec = replace(held[1].rec, meta=replace(held[1].rec.meta, company_most=1))
    assert (desk.bounds, desk.lonely) == ({held[0].holder: 3, held[1].holder: 1}, True)
    assert [each.company_most for each in desk.preemptible] == [3, 1, None]


def test_a_job_let_go_of_may_still_be_at_work(submit: Submit, worker: PretendWorker, desk: Desk) -> None:
    """Of those that the engine computes, until it speaks again; one that it only counts never was."""
    held = [desk.take(worker.claim(submit().id)) for _ in range(3)]
    for each in held[:2]:
        desk.grant(each)
    desk.cancel([held[0].rec.id])
    desk.put_back(held[1], Reason.MEMORY)
    desk.put_back(held[2], Reason.LARGER_THAN_ESTIMATED)
    assert desk.leaving == {key_of(each) for each in held[:2]}
