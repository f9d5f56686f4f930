"""What a look at the queues' heads reads, and that reading less changes nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
from redis import Redis

from scheduler import heads, shelf
from scheduler.job import PRIORITIES
from scheduler.lifecycle import Lifecycle
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.record import JobRecord
from scheduler.shares import Turn
from scheduler.slip import WAITING_KEY
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.test_fair_shares import ANN, BOB, CAL, ask, order
from tests.store.test_other_hands import claiming

__all__ = ["ask"]  # a fixture


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the jobs that are read, as they are."""
    ids: list[str] = []
    reads = shelf.read_heading
    monkeypatch.setattr(shelf, "read_heading", lambda job, *more: ids.append(job) or reads(job, *more))
    return ids


@pytest.fixture
def trips(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each round trip."""
    made: list[object] = []
    take = type(connection.connection_pool).get_connection
    monkeypatch.setattr(
        type(connection.connection_pool),
        "get_connection",
        lambda pool, *words, **names: made.append(words) or take(pool, *words, **names),
    )
    return made


def test_a_look_reads_no_more_jobs_than_it_returns(ask: Any, queue: JobQueue, read: list[str]) -> None:
    """Of three owners, far from the list's front or at it, with jobs of all sizes."""
    for owner in (ANN, BOB, CAL):
        for at in range(30):
            ask(owner, max_tokens=10 + at)
    read.clear()
    assert sorted(order(queue)) == sorted(read)
    assert len(read) == 16


def test_all_classes_are_read_in_four_round_trips(ask: Any, queue: JobQueue, trips: list[object]) -> None:
    """However many wait in each; in three where all that wait are read."""
    for count, most in ((3, 3), (40, 4)):
        for priority in PRIORITIES:
            for owner in (ANN, BOB):
                for _ in range(count):
                    ask(owner, priority=priority)
        trips.clear()
        queue.heads(PRIORITIES, 16)
        assert len(trips) == most, count


def test_the_order_is_that_of_reading_everything(
    ask: Any, queue: JobQueue, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of many sizes, some of them put back, some charged: the same jobs, turns and all."""
    draw = random.Random(5)

    def look() -> list[tuple[str, Turn | None]]:
        return [(rec.id, rec.turn) for rec, _ in queue.heads(["standard"], 8)[0]]

    for _ in range(20):
        for _ in range(8):
            ask(draw.choice((ANN, BOB, CAL, "")), max_tokens=draw.choice((5, 50, 500)))
        held = [worker.claim(draw.choice(order(queue))) for _ in range(4)]
        worker.holding.send([worker.holding.put_back(each, Reason.MEMORY) for each in held[:2]], held[:2])
        short = look()
        with monkeypatch.context() as patch:
            patch.setattr(heads, "_first", lambda glance, *_: (glance.ids, []))
            assert look() == short


def test_what_is_not_wanted_takes_nobodys_place(ask: Any, queue: JobQueue) -> None:
    """The jobs that would have come first are refused: those behind them are read and come in their turns."""
    jobs = {owner: [ask(owner).id for _ in range(20)] for owner in (ANN, BOB)}
    refused = {*jobs[ANN][:8], *jobs[BOB][:4]}

    def wanted(rec: JobRecord) -> bool:
        return rec.id not in refused

    seen = [rec.id for rec, _ in queue.heads(["standard"], 16, wanted)[0]]
    assert seen[:4] == [jobs[ANN][8], jobs[BOB][4], jobs[ANN][9], jobs[BOB][5]]
    assert not refused.intersection(seen)


@pytest.mark.parametrize("text", [None, b"rubbish", b"7 batch ", b"7"])
def test_a_job_without_a_sound_slip_is_read_all_the_same(
    connection: Redis, ask: Any, queue: JobQueue, text: bytes | None
) -> None:
    """It has its turn by what its hash says."""
    jobs = [ask(owner).id for owner in (ANN, BOB) for _ in range(20)]
    if text is None:
        connection.hdel(WAITING_KEY, jobs[0])
    else:
        connection.hset(WAITING_KEY, jobs[0], text)
    assert order(queue)[:2] == [jobs[0], jobs[20]]
    connection.hset(WAITING_KEY, jobs[0], f"11 standard {ANN}")


def test_many_jobs_of_one_that_were_put_back_all_go_first(
    ask: Any, queue: JobQueue, worker: PretendWorker
) -> None:
    """More of them than a look reads of their owner's lane."""
    back = [worker.claim(ask(ANN).id) for _ in range(12)]
    for owner in (ANN, BOB, CAL):
        for _ in range(10):
            ask(owner)
    worker.holding.send([worker.holding.put_back(each, Reason.MEMORY) for each in back], back)
    assert sorted(order(queue)[:12]) == sorted(each.rec.id for each in back)


def test_a_worker_that_was_beaten_steps_aside(
    lifecycle: Lifecycle,
    submit: Submit,
    worker: PretendWorker,
    other: PretendWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another takes the first while it is claimed: the second is left to others too, and counts as passed."""
    jobs = [submit().id for _ in range(6)]
    claims, ledger = claiming(lifecycle, worker)
    take = worker.holding.claim

    def late(*words: Any) -> Any:
        if words[0].id == jobs[0]:
            other.claim(jobs[0])
        return take(*words)

    monkeypatch.setattr(worker.holding, "claim", late)
    monkeypatch.setattr("workers.claiming.random.randrange", lambda below: below - 1)
    held = claims.claim(ledger, None)
    assert held is not None
    assert held.rec.id == jobs[2]
    passes = {rec.id: passes for rec, passes in lifecycle.queue.heads(["standard"], 9)[0]}
    assert (passes[jobs[1]], passes[jobs[3]]) == (1, 0)
    after = [each.rec.id for _ in range(2) if (each := claims.claim(ledger, None))]
    assert after == [jobs[1], jobs[3]], "the next claims are in order"


def test_a_claim_takes_two_round_trips_behind_its_look(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, trips: list[object]
) -> None:
    """One to read, one to swap."""
    jobs = [submit() for _ in range(3)]
    claims, ledger = claiming(lifecycle, worker)
    claims.claim(ledger, None)
    trips.clear()
    held = claims.claim(ledger, None)
    assert held is not None
    assert (held.rec.id, len(trips)) == (jobs[1].id, 2)


def test_no_less_urgent_job_goes_before_a_class_that_a_look_did_not_see_whole(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """More wait than a look reads, and the worker fills its batch from one look for as long as it can."""
    urgent = [submit(priority="standard").id for _ in range(lifecycle.settings.claim_lookahead + 4)]
    patient = [submit(priority="batch").id for _ in range(3)]
    claims, ledger = claiming(lifecycle, worker)
    held = [claims.claim(ledger, None) for _ in range(len(urgent) + 1)]
    assert [each and each.rec.id for each in held] == [*urgent, patient[0]]
