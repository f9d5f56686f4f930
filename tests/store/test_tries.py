"""What OpenAI's client sends again: a try finds the job of the try before it, and no other client's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from rq.job import Job

from scheduler import attendance
from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.once import RETRY_SECONDS, Once
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.record import ATTENDING_FIELD, JobRecord
from scheduler.request import read_request
from scheduler.settings import load
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.store.looking import kinds, nothing_waits
from tests.waiting import Clock

BODY = {"model": MODEL, "prompt": "hi", "max_tokens": 10}
BYTES = b"as they were sent"
AWAY = ClientError("insufficient_memory", "come again", retry_after=1).body()

Try = Callable[..., JobRecord]


def try_by(
    lifecycle: Lifecycle,
    before: int,
    body: bytes = BYTES,
    owner: str = "",
    *,
    attended: bool = False,
    **fields: Any,
) -> JobRecord:
    """Send a request for the time after so many."""
    once = Once.tried(owner, "/v1/a", body, before, attended=attended)
    return lifecycle.accept(read_request(BODY | fields), owner, again=before > 0, once=once)[0]


@pytest.fixture
def send(lifecycle: Lifecycle, clock: Clock) -> Try:
    """Sends, each a second after the one before."""

    def sent(before: int, *rest: Any, **how: Any) -> JobRecord:
        clock.now += 1.0
        return try_by(lifecycle, before, *rest, **how)

    return sent


def test_a_second_try_finds_the_job_of_the_first(send: Try) -> None:
    """And a third the same; each says that it was there."""
    first = send(0)
    found = [send(number) for number in (1, 2)]
    assert [(rec.id, rec.replayed) for rec in found] == [(first.id, True)] * 2


def test_first_tries_alike_are_jobs_of_their_own(send: Try) -> None:
    """Who sends the same twice on purpose wants two answers."""
    assert len({send(0).id for _ in range(3)}) == 3


@pytest.mark.parametrize("other", [{"body": b"another"}, {"owner": "a" * 16}])
def test_a_try_finds_nobody_elses_job(send: Try, other: dict[str, Any]) -> None:
    """Another body, another owner: another job."""
    first = send(0)
    assert send(1, **other).id != first.id
    assert send(1).id == first.id


def test_each_second_try_has_a_first_tries_job_to_itself(send: Try) -> None:
    """Of three alike whose answers were lost each finds one; a fourth, whose first try nobody saw, makes one."""
    firsts = {send(0).id for _ in range(3)}
    assert {send(1).id for _ in range(3)} == firsts
    fourth = send(1)
    assert (fourth.id in firsts, fourth.replayed) == (False, False)


def test_a_third_try_finds_the_job_of_a_second(send: Try) -> None:
    """Not that of a first try of another, though that is newer."""
    first = send(0)
    assert send(1).id == first.id
    other = send(0)
    assert send(2).id == first.id
    assert send(1).id == other.id


def test_tries_are_remembered_for_two_minutes(connection: Redis, send: Try) -> None:
    """From the last one on; what is kept has neither body nor owner in it."""
    send(0)
    (record,) = connection.scan_iter("tidegate:tries:*")
    for number in (1, 0):
        connection.expire(record, 5)
        send(number)
        assert RETRY_SECONDS - 5 < connection.ttl(record) <= RETRY_SECONDS == 120
    assert BYTES not in record


def test_of_very_many_alike_the_newest_are_remembered(connection: Redis, send: Try) -> None:
    """A bound on what one body may take of the server's memory."""
    sent = [send(0).id for _ in range(70)]
    (record,) = connection.scan_iter("tidegate:tries:*")
    assert connection.zrange(record, 0, -1) == [job.encode() for job in sent[-64:]]


@pytest.mark.parametrize(
    ("end", "same"),
    [
        (Outcome(State.COMPLETED, {"text": "hi"}), True),
        (Outcome(State.FAILED, error=ClientError("worker_killed", "why").body()), True),
        (Outcome(State.FAILED, error=AWAY), False),
    ],
)
def test_a_try_after_a_failure_that_it_can_help_is_another_job(
    send: Try, worker: PretendWorker, end: Outcome, same: bool
) -> None:
    """Its answer was not lost: it said to try again."""
    first = send(0)
    worker.end(worker.claim(first.id), end)
    assert (send(1).id == first.id) is same


def test_who_was_told_to_try_again_does_not_take_anothers_job(send: Try, worker: PretendWorker) -> None:
    """Of two alike one failed so: its client's next try is a new job, and the other's goes on being the other's."""
    failed, runs = send(0), send(0)
    worker.end(worker.claim(failed.id), Outcome(State.FAILED, error=AWAY))
    again = send(1)
    assert again.id not in {failed.id, runs.id}
    assert send(1).id == runs.id


def test_who_was_refused_does_not_take_anothers_job(
    connection: Redis, valkey_url: str, clock: Clock, worker: PretendWorker
) -> None:
    """Of two alike one came in and one found the queue full; when that one comes again, it has a job of its own."""
    full = Lifecycle(connection, load(redis_url=valkey_url, models=(MODEL,), max_queued_jobs=1), clock)
    first = try_by(full, 0)
    with pytest.raises(ClientError) as caught:
        try_by(full, 0)
    assert caught.value.code == "queue_full"
    worker.claim(first.id)
    clock.now += caught.value.retry_after or 0
    again = try_by(full, 1)
    assert (again.replayed, again.id != first.id) == (False, True)


def test_a_job_that_is_gone_is_made_anew(lifecycle: Lifecycle, send: Try) -> None:
    """Deleted meanwhile."""
    first = send(0)
    lifecycle.delete(first.id)
    assert not send(1).replayed


def test_what_others_left_where_tries_are_kept_is_passed_over(connection: Redis, send: Try) -> None:
    """Names of no job, numbers of no try."""
    send(0)
    (record,) = connection.scan_iter("tidegate:tries:*")
    rubbish = {b"\xff": 0, "job_": 0, "x" * 99: 1, "job_" + "0" * 26: 0, "job_" + "1" * 26: "-inf"}
    connection.delete(record)
    connection.zadd(record, rubbish)  # type: ignore[arg-type]  # what ZADD takes
    assert not send(1).replayed


def test_a_lost_race_for_a_job_is_a_look_for_another(
    send: Try, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two second tries chose the same job; the one that comes late takes the other."""
    firsts = {send(0).id for _ in range(2)}
    look, taken = JobQueue.with_outcomes, list[JobRecord]()

    def late(own: JobQueue, records: Any) -> list[JobRecord]:
        found = look(own, records)
        if not taken:
            monkeypatch.setattr(JobQueue, "with_outcomes", look)
            taken.append(send(1))
        return found

    monkeypatch.setattr(JobQueue, "with_outcomes", late)
    assert {send(1).id, taken[0].id} == firsts


# Jobs that are cancelled when their clients go away


def attended_by(connection: Redis, lifecycle: Lifecycle, meanwhile: Callable[[], object]) -> Lifecycle:
    """The same verbs, for which time passes so."""
    return Lifecycle(connection, lifecycle.settings, lifecycle._clock, lambda _: meanwhile())


def test_a_client_that_leaves_takes_its_job_with_it(
    lifecycle: Lifecycle, connection: Redis, send: Try
) -> None:
    """Nobody tried again in time; whoever does later has a new one."""
    first = send(0, attended=True)
    paused: list[float] = []
    own = Lifecycle(connection, lifecycle.settings, lifecycle._clock, paused.append)
    own.leave(first.id, linger_seconds=attendance.LINGER_SECONDS)
    assert paused == [2.0]
    assert kinds(connection, first.id) == ["queued", "cancelled"]
    assert nothing_waits(lifecycle.queue)
    assert send(1, attended=True).id != first.id


def test_a_client_that_tries_again_in_time_finds_its_job(
    lifecycle: Lifecycle, connection: Redis, send: Try
) -> None:
    """It had given up waiting for the answer, and waits again, as long as it likes, for the same one."""
    first = send(0, attended=True)
    found: list[JobRecord] = []
    own = attended_by(connection, lifecycle, lambda: found.append(send(1, attended=True)))
    own.leave(first.id, linger_seconds=attendance.LINGER_SECONDS)
    assert [(rec.id, rec.replayed) for rec in found] == [(first.id, True)]
    assert lifecycle.get(first.id).state is State.QUEUED
    lifecycle.leave(first.id)
    assert lifecycle.get(first.id).state is State.CANCELLED


def test_a_try_that_comes_before_its_client_was_missed_keeps_the_job(lifecycle: Lifecycle, send: Try) -> None:
    """The first connection's end is seen late: by then the second waits."""
    first = send(0, attended=True)
    assert send(1, attended=True).id == first.id
    lifecycle.leave(first.id)
    assert lifecycle.get(first.id).state is State.QUEUED


def test_a_running_job_is_given_up_in_the_same_way(
    lifecycle: Lifecycle, connection: Redis, send: Try, worker: PretendWorker
) -> None:
    """Its worker is asked to stop only when nobody is there; from then on it is nobody's."""
    held = worker.claim(send(0, attended=True).id)
    job_id = held.rec.id
    attended_by(connection, lifecycle, lambda: send(1, attended=True)).leave(job_id, linger_seconds=2.0)
    assert not worker.cancel_wanted(held)
    lifecycle.leave(job_id)
    assert worker.cancel_wanted(held)
    assert send(2, attended=True).id != job_id
    worker.end(held, Outcome(State.CANCELLED))


def test_a_try_prefers_the_job_whose_client_left(send: Try, connection: Redis, lifecycle: Lifecycle) -> None:
    """Of three alike, the oldest lost its client: that is the one, and the others' stay theirs."""
    first, *others = (send(0, attended=True) for _ in range(3))
    found: list[JobRecord] = []
    attended_by(connection, lifecycle, lambda: found.append(send(1, attended=True))).leave(
        first.id, linger_seconds=2.0
    )
    assert [rec.id for rec in found] == [first.id]
    assert [lifecycle.get(rec.id).attending for rec in (first, *others)] == [1, 1, 1]


def test_a_try_that_comes_while_its_job_is_given_up_makes_another(
    lifecycle: Lifecycle, send: Try, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had looked before the cancellation; joining fails, and it looks again."""
    first = send(0, attended=True)
    look, once = JobQueue.with_outcomes, [True]

    def late(own: JobQueue, records: Any) -> list[JobRecord]:
        found = look(own, records)
        if once:
            once.clear()
            lifecycle.leave(first.id)
        return found

    monkeypatch.setattr(JobQueue, "with_outcomes", late)
    second = send(1, attended=True)
    assert (second.replayed, second.id != first.id) == (False, True)
    assert lifecycle.get(first.id).state is State.CANCELLED


def test_who_ended_before_its_client_came_again_is_found(
    lifecycle: Lifecycle, connection: Redis, send: Try, worker: PretendWorker
) -> None:
    """The answer that was lost is given again, and leaving changes nothing about it."""
    first = send(0, attended=True)
    worker.complete(worker.claim(first.id), "hi")
    lifecycle.leave(first.id, linger_seconds=2.0)
    found = send(1, attended=True)
    assert (found.id, found.state) == (first.id, State.COMPLETED)


@pytest.mark.parametrize("said", [b"", b"x", b"-1", b"1.5", b"9" * 40])
def test_who_attends_is_counted_by_numbers_alone(
    connection: Redis, lifecycle: Lifecycle, send: Try, said: bytes
) -> None:
    """Whatever else stands there, the job cannot be joined and ends with its client."""
    first = send(0, attended=True)
    connection.hset(Job.key_for(first.id), ATTENDING_FIELD, said)  # type: ignore[arg-type]  # bytes are taken
    assert send(1, attended=True).id != first.id
    lifecycle.leave(first.id)
    assert lifecycle.get(first.id).state is State.CANCELLED


def test_leaving_a_job_that_is_gone_leaves_nothing(
    connection: Redis, lifecycle: Lifecycle, send: Try
) -> None:
    """Deleted between the look and the word: no key comes back."""
    first = send(0, attended=True)
    seen = lifecycle.get(first.id)
    lifecycle.delete(first.id)
    with pytest.raises(ClientError):
        attendance.leave(lifecycle.queue, seen)
    assert not connection.exists(Job.key_for(first.id))
