"""Places held for those whom a full queue refused: whose they are, how long, who is kept off them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from scheduler.bookings import BOOKINGS_KEY, read_bookings
from scheduler.errors import ClientError
from scheduler.lifecycle import Lifecycle
from scheduler.owner import owner_of
from scheduler.promise import GRACE_SECONDS, Booking
from scheduler.request import read_request
from scheduler.settings import load
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import Clock

Bounded = Callable[..., Lifecycle]


@pytest.fixture
def bounded(connection: Redis, valkey_url: str, clock: Clock) -> Bounded:
    """The verbs under other settings; who waits for a moment waits for none."""

    def made(**fields: Any) -> Lifecycle:
        verbs = Lifecycle(connection, load(redis_url=valkey_url, models=(MODEL,), **fields), clock)
        verbs._door._pause = lambda _: None
        return verbs

    return made


def ask(verbs: Lifecycle, prompt: str, owner: str = "", *, again: bool | None = None) -> str:
    """Submit a job of about eleven tokens."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 10}
    return verbs.submit(read_request(body), owner_of(owner), again=again).id


def refused(verbs: Lifecycle, prompt: str, owner: str = "", *, again: bool | None = None) -> int:
    """Submit a job that finds the queue full; in how many seconds to come back."""
    with pytest.raises(ClientError) as caught:
        ask(verbs, prompt, owner, again=again)
    assert caught.value.code == "queue_full"
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def held(verbs: Lifecycle, clock: Clock) -> list[Booking]:
    """The places held, soonest first."""
    return sorted(read_bookings(verbs.connection, clock.now).bookings, key=lambda each: each.due)


def test_who_is_refused_has_a_place_until_it_lapses(bounded: Bounded, clock: Clock) -> None:
    """Due when its client was told to come; the key itself lapses with it."""
    verbs = bounded(max_queued_jobs=1)
    ask(verbs, "first")
    told = refused(verbs, "second")
    (place,) = held(verbs, clock)
    assert place.due == place.come_at == clock.now + told
    assert told < verbs.connection.ttl(BOOKINGS_KEY) <= told + GRACE_SECONDS + 1
    clock.now += told + GRACE_SECONDS
    assert held(verbs, clock) == []


def test_who_comes_when_it_was_told_goes_before_newcomers(
    bounded: Bounded, clock: Clock, worker: PretendWorker
) -> None:
    """The one place that came free is its own; the newcomer is told of the next."""
    verbs = bounded(max_queued_jobs=1)
    first = ask(verbs, "first")
    clock.now += refused(verbs, "second")
    worker.claim(first)
    refused(verbs, "third")
    ask(verbs, "second")
    assert verbs.queue.waiting()[0] == 1
    assert len(held(verbs, clock)) == 1


def test_those_refused_one_after_the_other_come_one_after_the_other(bounded: Bounded, clock: Clock) -> None:
    """Each is told of a later moment than those before it."""
    verbs = bounded(max_queued_jobs=1)
    ask(verbs, "first")
    told = [refused(verbs, f"later {number}") for number in range(6)]
    assert told == sorted(told)
    assert told[-1] > told[0]


def test_who_comes_too_early_keeps_its_place(bounded: Bounded, clock: Clock) -> None:
    """And is told the rest of its time; nobody else's changes."""
    verbs = bounded(max_queued_jobs=1)
    ask(verbs, "first")
    for number in range(5):
        refused(verbs, f"crowd {number}")
    told = refused(verbs, "second")
    refused(verbs, "third")
    assert told > 2
    before = held(verbs, clock)
    clock.now += 1
    assert refused(verbs, "second", again=True) == told - 1
    assert [(each.serial, each.due) for each in held(verbs, clock)] == [
        (each.serial, each.due) for each in before
    ]


def test_a_time_too_late_to_be_told_is_told_in_parts(bounded: Bounded, clock: Clock) -> None:
    """120 s at most at a time; the place stays due when it was."""
    verbs = bounded(max_queued_jobs=1)
    ask(verbs, "first")
    for number in range(300):
        refused(verbs, f"crowd {number}")
    before = held(verbs, clock)
    assert refused(verbs, "last") == 120
    (last,) = set(held(verbs, clock)).difference(before)
    assert last.due > last.come_at == clock.now + 120
    for _ in range(3):
        clock.now += 120
        if clock.now >= last.due:
            break
        told = refused(verbs, "last")
        assert told == min(120, math.ceil(last.due - clock.now))
        (place,) = [each for each in held(verbs, clock) if each.digest == last.digest]
        assert (place.due, place.serial) == (last.due, last.serial)


def test_a_place_is_its_owners(bounded: Bounded, clock: Clock, worker: PretendWorker) -> None:
    """The same body of another is a newcomer."""
    verbs = bounded(max_queued_jobs=1)
    first = ask(verbs, "first")
    clock.now += refused(verbs, "second", "Bearer ann")
    worker.claim(first)
    refused(verbs, "second", "Bearer bob")
    ask(verbs, "second", "Bearer ann")


def test_the_same_body_twice_has_two_places(bounded: Bounded, clock: Clock, worker: PretendWorker) -> None:
    """Two clients who ask the same; each comes when it was told, and both get in."""
    verbs = bounded(max_queued_jobs=2)
    jobs = [ask(verbs, "first"), ask(verbs, "next")]
    at, told = clock.now, [refused(verbs, "alike"), refused(verbs, "alike")]
    assert len({each.serial for each in held(verbs, clock)}) == 2
    for job in jobs:
        worker.claim(job)
    for seconds in told:
        clock.now = at + seconds
        ask(verbs, "alike")
    assert held(verbs, clock) == []


def test_a_place_that_nobody_comes_for_is_given_up(
    bounded: Bounded, clock: Clock, worker: PretendWorker
) -> None:
    """A newcomer gets it; what lapsed is gone from the server with the next write."""
    verbs = bounded(max_queued_jobs=1)
    first = ask(verbs, "first")
    clock.now += refused(verbs, "second") + GRACE_SECONDS
    assert verbs.connection.hlen(BOOKINGS_KEY) == 1
    worker.claim(first)
    ask(verbs, "third")
    assert verbs.connection.hlen(BOOKINGS_KEY) == 0


def test_who_is_due_before_its_room_is_there_waits_a_moment(
    bounded: Bounded, clock: Clock, worker: PretendWorker
) -> None:
    """It is let in when the next job starts, and not sent away for that."""
    verbs = bounded(max_queued_jobs=1)
    first = ask(verbs, "first")
    clock.now += refused(verbs, "second")
    paused: list[float] = []

    def start_one(seconds: float) -> None:
        paused.append(seconds)
        clock.now += seconds
        if len(paused) == 3:
            worker.claim(first)

    verbs._door._pause = start_one
    ask(verbs, "second")
    assert len(paused) == 3


def test_who_is_due_and_finds_no_room_is_told_again(bounded: Bounded, clock: Clock) -> None:
    """The bound holds for everybody; its place is held on, for a moment to come."""
    verbs = bounded(max_queued_jobs=1)
    ask(verbs, "first")
    clock.now += refused(verbs, "second")
    (before,) = held(verbs, clock)
    refused(verbs, "second")
    (after,) = held(verbs, clock)
    assert (after.serial, verbs.queue.waiting()[0]) == (before.serial, 1)
    assert after.due > clock.now


def test_a_crowd_is_told_apart_and_the_bound_holds(
    connection: Redis, valkey_url: str, clock: Clock, bounded: Bounded
) -> None:
    """Sixty at once through three processes' verbs: four wait, and each of the others has a place of its own."""
    verbs = [bounded(max_queued_jobs=4) for _ in range(3)]
    answers: list[int | str] = []

    def come(number: int) -> None:
        try:
            answers.append(ask(verbs[number % 3], f"client {number}"))
        except ClientError as error:
            answers.append(error.retry_after or 0)

    crowd = [threading.Thread(target=come, args=(number,)) for number in range(60)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join(30)
    assert sum(isinstance(answer, str) for answer in answers) == verbs[0].queue.waiting()[0] == 4
    places = held(verbs[0], clock)
    assert len(places) == 56
    assert len({each.digest for each in places}) == 56
    assert sorted(answer for answer in answers if isinstance(answer, int)) == [
        min(120, round(each.come_at - clock.now)) for each in sorted(places, key=lambda each: each.come_at)
    ]


def test_where_nobody_was_refused_a_submission_is_one_step(bounded: Bounded, connection: Redis) -> None:
    """One script on the server, and nothing read before it."""
    verbs = bounded()
    ask(verbs, "first")  # loads the script, and lists the workers
    connection.config_resetstat()
    ask(verbs, "second")
    ran: Any = connection.info("commandstats")
    calls = {name: stats["calls"] for name, stats in ran.items()}
    assert calls["cmdstat_evalsha"] == 1
    assert "cmdstat_hgetall" not in calls


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"rubbish", b"1 2 3 standard "),
        (b"a" * 32 + b"/" + b"0" * 8, b"rubbish"),
        (b"a" * 32 + b"/" + b"0" * 8, b"inf inf 3 standard "),
        (b"a" * 32 + b"/" + b"0" * 8, b"nan nan 3 standard "),
        (b"a" * 32 + b"/" + b"0" * 8, b"1700000005.0 1700000005.0 3 no_class "),
        (b"a" * 32 + b"/" + b"0" * 8, b"1700000005.0 1700000005.0 -3 standard "),
        (b"a" * 32 + b"/" + b"0" * 8, b"1700000005.0 1700000005.0 \xff standard "),
        (b"\xff\xfe", b"\xff"),
    ],
)
def test_what_cannot_be_read_holds_nothing(
    bounded: Bounded, connection: Redis, field: bytes, value: bytes
) -> None:
    """It keeps nobody off, and is gone with the next submission."""
    connection.hset(BOOKINGS_KEY, field, value)
    ask(bounded(max_queued_jobs=1), "first")
    assert not connection.exists(BOOKINGS_KEY)
