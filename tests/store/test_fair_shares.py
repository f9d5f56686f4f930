"""Fair shares on the server: lanes and accounts beside RQ's lists, which stay the truth."""

from __future__ import annotations

import random
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from scheduler.job import PRIORITIES
from scheduler.lanes import charge_commands, forgive_swap, lane_key, owners_key, served_key
from scheduler.lifecycle import Lifecycle
from scheduler.owner import owner_of
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.record import JobRecord
from scheduler.recovery import recover
from scheduler.request import read_request
from scheduler.shares import Served, Turn
from scheduler.slip import Slip
from scheduler.strays import mend
from scheduler.swap import Swap, Swapper
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.store.looking import nothing_waits, snapshot
from tests.store.test_other_hands import claiming
from tests.waiting import Clock

ANN, BOB, CAL = (owner_of(f"Bearer {name}") for name in ("ann", "bob", "cal"))


@pytest.fixture
def ask(lifecycle: Lifecycle, clock: Clock) -> Any:
    """Submits an owner's job of eleven tokens, a second after the one before."""

    def asked(owner: str, **fields: Any) -> JobRecord:
        clock.now += 1.0
        body = {"model": MODEL, "prompt": "hi", "max_tokens": 10} | fields
        return lifecycle.submit(read_request(body), owner)

    return asked


def order(queue: JobQueue, count: int = 16) -> list[str]:
    """The standard jobs that a claim looks at."""
    return [rec.id for rec, _ in queue.heads(["standard"], count)[0]]


def test_a_thousand_jobs_of_one_do_not_shut_out_another(
    lifecycle: Lifecycle, ask: Any, worker: PretendWorker
) -> None:
    """The one that came last is claimed second, from the far end of the list; then the thousand go on."""
    crowd = [ask(ANN).id for _ in range(1000)]
    lone = ask(BOB).id
    claims, ledger = claiming(lifecycle, worker)
    claimed = [held.rec.id for _ in range(4) if (held := claims.claim(ledger, None))]
    assert claimed == [crowd[0], lone, crowd[1], crowd[2]]
    assert lifecycle.queue.rq_queue("standard").job_ids == crowd[3:]


def test_a_look_takes_as_many_round_trips_however_long_the_queue(
    connection: Redis, ask: Any, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty jobs of two owners, or three hundred."""
    trips: list[object] = []
    take = type(connection.connection_pool).get_connection
    monkeypatch.setattr(
        type(connection.connection_pool),
        "get_connection",
        lambda pool, *words, **names: trips.append(words) or take(pool, *words, **names),
    )
    for count in (10, 140):
        for _ in range(count):
            ask(ANN)
        for _ in range(count):
            ask(BOB)
        order(queue)  # requests are looked at once
        trips.clear()
        order(queue)
        assert 0 < len(trips) <= 12, count


def test_owners_take_turns_by_work(ask: Any, queue: JobQueue, worker: PretendWorker) -> None:
    """One's jobs are ten times the other's: the other has ten in between."""
    for _ in range(5):
        ask(ANN, max_tokens=109)
    for _ in range(40):
        ask(BOB)
    claimed = [worker.claim(order(queue)[0]).rec.meta.owner for _ in range(24)]
    assert claimed == [ANN, *[BOB] * 10, ANN, *[BOB] * 10, ANN, BOB]


def test_one_owners_order_is_the_lists(ask: Any, queue: JobQueue) -> None:
    """As ever, whoever it is, and whatever is put in front."""
    jobs = [ask(ANN).id for _ in range(5)]
    assert order(queue) == jobs
    queue.connection.lrem("rq:queue:standard", 1, jobs[3])
    queue.connection.lpush("rq:queue:standard", jobs[3])
    assert order(queue) == [jobs[3], *jobs[:3], jobs[4]]


def test_a_job_put_back_goes_first_and_is_charged_once(
    connection: Redis, ask: Any, queue: JobQueue, worker: PretendWorker
) -> None:
    """In front of its owner's others and of everybody's, whose turns then go on as if it had never come back."""
    others = [ask(ANN).id, ask(BOB).id]
    first = worker.claim(ask(ANN).id)
    before = connection.zrange(served_key("standard"), 0, -1, withscores=True)
    worker.holding.send([worker.holding.put_back(first, Reason.MEMORY)], [first])
    assert order(queue) == [first.rec.id, others[1], others[0]]
    lane = connection.zrange(lane_key("standard", ANN), 0, -1)
    assert lane == [first.rec.id.encode(), others[0].encode()]
    again = worker.claim(first.rec.id)
    assert (again.lease.attempt, again.rec.meta.owner) == (2, ANN)
    assert connection.zrange(served_key("standard"), 0, -1, withscores=True) == before


def test_a_lost_workers_jobs_keep_their_owner_and_go_first(
    ask: Any, queue: JobQueue, worker: PretendWorker, other: PretendWorker
) -> None:
    """Recovered like those that a worker gave back."""
    lost, waits = other.claim(ask(BOB).id).rec.id, ask(ANN).id
    queue.connection.delete("tidegate:worker:two")
    assert recover(queue, PRIORITIES, worker.name, set()) == [lost]
    assert order(queue) == [lost, waits]
    assert queue.owned(BOB) == (1, 11)


def test_an_idle_owner_banks_no_credit(ask: Any, queue: JobQueue, worker: PretendWorker) -> None:
    """Who comes while another was served ten jobs has one turn next, then they alternate."""
    for _ in range(20):
        ask(ANN)
    for _ in range(10):
        worker.claim(order(queue)[0])
    for _ in range(10):
        ask(BOB)
    claimed = [worker.claim(order(queue)[0]).rec.meta.owner for _ in range(6)]
    assert sorted(claimed[:2]) == sorted(claimed[2:4]) == sorted(claimed[4:]) == sorted([ANN, BOB])


def test_more_owners_than_a_look_compares_all_have_their_turn(
    ask: Any, queue: JobQueue, worker: PretendWorker
) -> None:
    """Eighty with two jobs each: all are served once before anyone is twice."""
    owners = [owner_of(f"Bearer {at}") for at in range(80)]
    for owner in owners:
        ask(owner)
        ask(owner)
    claimed = [worker.claim(order(queue)[0]).rec.meta.owner for _ in range(160)]
    assert sorted(claimed[:80]) == sorted(claimed[80:]) == sorted(owners)


def test_what_rqs_tools_put_into_a_list_is_found_without_an_index(
    connection: Redis, ask: Any, queue: JobQueue, worker: PretendWorker
) -> None:
    """Its entries lost: the list's front has it, a claim takes it, and mending makes the indexes whole."""
    jobs = [ask(ANN).id, ask(BOB).id]
    connection.delete(lane_key("standard", ANN), lane_key("standard", BOB), owners_key("standard"))
    assert order(queue) == jobs
    mend(queue)
    assert [connection.zrange(lane_key("standard", owner), 0, -1) for owner in (ANN, BOB)] == [
        [job.encode()] for job in jobs
    ]
    for job in jobs:
        worker.claim(job)
    assert nothing_waits(queue)


def test_a_job_that_only_a_lane_has_is_not_claimed_and_stands_in_nobodys_way(
    connection: Redis, lifecycle: Lifecycle, ask: Any, worker: PretendWorker
) -> None:
    """Taken out of its list by RQ's tools: it is dropped where a claim fails, and those behind it run."""
    for _ in range(20):
        ask(ANN)
    stray, behind = ask(BOB), ask(BOB).id
    Queue("standard", connection=connection, serializer=JSONSerializer).remove(stray.id)
    claims, ledger = claiming(lifecycle, worker)
    claimed = [held.rec.id for _ in range(3) if (held := claims.claim(ledger, None))]
    assert behind in claimed
    assert stray.id not in claimed
    Job.fetch(stray.id, connection=connection, serializer=JSONSerializer).delete()
    mend(lifecycle.queue)


@pytest.mark.parametrize("way", ["delete", "cancel", "status"])
def test_lanes_forget_jobs_that_others_ended(connection: Redis, ask: Any, queue: JobQueue, way: str) -> None:
    """Deleted, cancelled or marked by RQ's tools: not looked at, and mended away with their owner."""
    gone, left = ask(BOB), ask(ANN)
    job = Job.fetch(gone.id, connection=connection, serializer=JSONSerializer)
    if way == "status":
        connection.hset(job.key, "status", "finished")
    else:
        getattr(job, way)()
    assert order(queue) == [left.id]
    mend(queue)
    assert connection.zrange(owners_key("standard"), 0, -1) == [ANN.encode()]
    assert (queue.owned(BOB), queue.owned(ANN)) == ((0, 0), (1, 11))


def test_strange_entries_of_the_indexes_are_mended(connection: Redis, ask: Any, queue: JobQueue) -> None:
    """Whatever others wrote there: no crash, and after mending they say what the lists say."""
    rec = ask(ANN)
    before = snapshot(connection)
    connection.zadd(owners_key("standard"), {b"\xff": 1, "someone": 2, BOB: 3})
    connection.zadd(lane_key("standard", ANN), {b"\xff\xfe": -5, "job_none": -4})
    connection.zadd(served_key("standard"), {"someone": 1e300})
    connection.zadd("tidegate:owned:jobs", {ANN: 7, "x": 1})
    connection.zadd("tidegate:owned:tokens", {ANN: -7})
    assert order(queue) == [rec.id]
    mend(queue)
    connection.delete(served_key("standard"))
    connection.zrem(lane_key("standard", ANN), b"\xff\xfe")  # text that is none cannot be named
    assert snapshot(connection) == before


def test_a_cancelled_job_leaves_its_lane(
    connection: Redis, lifecycle: Lifecycle, ask: Any, queue: JobQueue
) -> None:
    """And its owner the class, with the last."""
    jobs = [ask(ANN).id, ask(ANN).id]
    lifecycle.cancel(jobs[0])
    assert connection.zrange(lane_key("standard", ANN), 0, -1) == [jobs[1].encode()]
    lifecycle.cancel(jobs[1])
    assert nothing_waits(queue)


def test_the_servers_account_is_the_rules(connection: Redis) -> None:
    """Claims in and out of turn, by many owners: the same scores as in Python, to the last digit."""
    draw, served, swap = random.Random(7), Served(), Swapper(connection)
    for _ in range(500):
        owner, work, last = draw.choice((ANN, BOB, CAL, "")), draw.randint(1, 4000), draw.random() < 0.3
        floor = served.standing(owner) if draw.random() < 0.8 else draw.uniform(0, served.clock)
        turn = Turn("job", floor, floor + draw.choice((0, 0, 50, 5000)))
        served.charge(owner, turn, work, last=last)
        slip = Slip(work, "standard", owner)
        charge = Swap((), tuple(charge_commands(slip, turn, 1.0)))
        swap(charge, *([forgive_swap(slip)] if last else []))
        entries: Any = connection.zrange(served_key("standard"), 0, -1, withscores=True)
        scores = {name.decode(): score for name, score in entries}
        assert scores.pop("clock") == pytest.approx(served.clock, rel=1e-12)
        assert scores == pytest.approx(served.scores, rel=1e-12)
    assert 0 < connection.ttl(served_key("standard")) <= 86_400


def test_the_account_is_bounded(connection: Redis, ask: Any, queue: JobQueue, worker: PretendWorker) -> None:
    """Of very many owners, the scores of those served most are kept."""
    connection.zadd(served_key("standard"), {f"{at:016x}": at for at in range(1, 10_000)})
    worker.claim(ask(ANN).id)
    assert 4000 < connection.zcard(served_key("standard")) < 4100
    assert connection.zscore(served_key("standard"), f"{9999:016x}") == 9999
    connection.delete(served_key("standard"))
