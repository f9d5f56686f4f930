"""A submission that comes twice under a key of its client's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis
from rq.job import Job

from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.once import KEY_SECONDS, Once, Repeats
from scheduler.outcome import Outcome
from scheduler.record import JobRecord
from scheduler.request import read_request
from scheduler.settings import Settings, load
from scheduler.strays import mend
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.store.looking import nothing_waits

Send = Callable[..., JobRecord]
KEY = "order 66/α"


def send_by(
    lifecycle: Lifecycle, key: str = KEY, owner: str = "", route: str = "/v1/jobs", **body: Any
) -> JobRecord:
    """Submit a job under a key."""
    asked = {"model": MODEL, "prompt": "hi", "max_tokens": 10} | body
    once = Once.keyed(owner, route, key, asked)
    return lifecycle.accept(read_request(asked), owner, once=once)[0]


@pytest.fixture
def send(lifecycle: Lifecycle) -> Send:
    """Submits under a key."""
    return lambda **how: send_by(lifecycle, **how)


def listed(lifecycle: Lifecycle) -> list[str]:
    """Every job, in the order in which they were made."""
    return [rec.id for rec in lifecycle.page(limit=100, order="asc").records]


def test_the_same_key_and_body_find_the_same_job(lifecycle: Lifecycle, send: Send) -> None:
    """As it is by then, and it says that it was there; nothing else is made."""
    first, second = send(), send()
    assert (second.id, first.replayed, second.replayed) == (first.id, False, True)
    lifecycle.cancel(first.id)
    assert send().state is State.CANCELLED
    assert listed(lifecycle) == [first.id]
    assert nothing_waits(lifecycle.queue)


def test_a_body_is_the_same_whatever_the_order_of_its_fields(lifecycle: Lifecycle) -> None:
    """It is compared by what it says."""
    once = [
        Once.keyed("", "/v1/jobs", KEY, body)
        for body in ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1})
    ]
    assert once[0] == once[1]


@pytest.mark.parametrize("other", [{"prompt": "ho"}, {"max_tokens": 11}, {"route": "/v1/completions"}])
def test_the_same_key_with_another_body_is_refused(
    lifecycle: Lifecycle, send: Send, other: dict[str, Any]
) -> None:
    """422, and so is the same body on another route; the first stands."""
    first = send()
    with pytest.raises(ClientError) as caught:
        send(**other)
    assert (caught.value.code, caught.value.row.status, caught.value.param) == (
        "idempotency_mismatch",
        422,
        "Idempotency-Key",
    )
    assert send().id == first.id
    assert listed(lifecycle) == [first.id]


def test_a_key_is_its_owners(send: Send) -> None:
    """Two who use the same key know nothing of each other."""
    ann, bob, nobody = (send(owner=owner) for owner in ("a" * 16, "b" * 16, ""))
    assert len({ann.id, bob.id, nobody.id}) == 3
    assert send(owner="b" * 16).id == bob.id


def test_a_key_is_kept_for_a_day_and_not_in_clear(connection: Redis, send: Send) -> None:
    """What is kept are digests and the job's id; using the key again does not make it last longer."""
    rec = send()
    (record,) = connection.scan_iter("tidegate:once:*")
    assert KEY_SECONDS - 10 < connection.ttl(record) <= KEY_SECONDS == 86_400
    digest, job_id = (connection.get(record) or b"").decode().split(" ")
    assert (len(digest), job_id) == (32, rec.id)
    assert b"order" not in record
    connection.expire(record, 100)
    send()
    assert connection.ttl(record) <= 100


@pytest.mark.parametrize("gone", ["deleted", "lapsed"])
def test_a_job_that_is_gone_is_made_anew(
    connection: Redis, lifecycle: Lifecycle, send: Send, gone: str
) -> None:
    """Under its old key, and from then on that is the one."""
    first = send()
    if gone == "deleted":
        lifecycle.delete(first.id)
    else:
        lifecycle.cancel(first.id)
        connection.delete(Job.key_for(first.id))
        mend(lifecycle.queue)
    second = send()
    assert (second.replayed, send().id) == (False, second.id)
    assert second.id != first.id


def test_what_is_refused_leaves_nothing_behind(
    connection: Redis, valkey_url: str, lifecycle: Lifecycle
) -> None:
    """Refused, it may be sent again under its key, changed or not."""
    full = Lifecycle(connection, load(redis_url=valkey_url, models=(MODEL,), max_queued_jobs=1))
    first = send_by(full, "another")
    for body, code in (({"model": "nobody's"}, "model_not_found"), ({}, "queue_full")):
        with pytest.raises(ClientError) as caught:
            send_by(full, **body)
        assert caught.value.code == code
    assert len(list(connection.scan_iter("tidegate:once:*"))) == 1
    full.cancel(first.id)
    connection.delete("tidegate:bookings")
    assert not send_by(full, prompt="ho").replayed


@pytest.mark.parametrize(
    ("end", "same"),
    [
        (Outcome(State.COMPLETED, {"text": "hi"}), True),
        (Outcome(State.INCOMPLETE, {"text": "hi"}), True),
        (Outcome(State.CANCELLED), True),
        (Outcome(State.FAILED, error=ClientError("worker_killed", "why").body()), True),
        (Outcome(State.FAILED, error=ClientError("insufficient_memory", "why").body()), False),
    ],
)
def test_only_a_failure_that_a_retry_can_help_frees_a_key(
    send: Send, worker: PretendWorker, end: Outcome, same: bool
) -> None:
    """A client that was told to try again does, under the same key, and must not be told the same for a day."""
    first = send()
    worker.end(worker.claim(first.id), end)
    second = send()
    assert (second.id == first.id) is second.replayed is same
    if same:
        assert second.outcome == end


def test_a_record_that_others_wrote_names_no_job(connection: Redis, send: Send) -> None:
    """Rubbish, or the name of a job of another kind: it is written over."""
    send()
    (record,) = connection.scan_iter("tidegate:once:*")
    for rubbish in (b"", b"\xff", b"job_", b"0" * 32 + b" job_" + b"0" * 26, b"x" * 9999):
        connection.set(record, rubbish, ex=60)
        rec = send()
        assert not rec.replayed
        assert send().id == rec.id


def test_of_two_at_once_one_makes_the_job(
    lifecycle: Lifecycle, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other had looked before, and finds it at its second look; the guard of the first swap held it off."""
    find, made = Repeats._find, list[JobRecord]()

    def late(repeats: Repeats, once: Once) -> Any:
        found = find(repeats, once)
        if not made:
            monkeypatch.setattr(Repeats, "_find", find)
            made.append(send())
        return found

    monkeypatch.setattr(Repeats, "_find", late)
    second = send()
    assert (second.id, second.replayed, made[0].replayed) == (made[0].id, True, False)
    assert listed(lifecycle) == [second.id]


def test_of_two_at_once_the_other_is_not_refused_for_the_room_that_the_first_took(
    connection: Redis, valkey_url: str, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``on_insufficient_memory: fail`` would refuse it, behind its own twin."""
    lifecycle = Lifecycle(connection, load(redis_url=valkey_url, models=(MODEL,)))
    body = {"on_insufficient_memory": "fail"}
    find, made = Repeats._find, list[JobRecord]()

    def late(repeats: Repeats, once: Once) -> Any:
        found = find(repeats, once)
        if not made:
            monkeypatch.setattr(Repeats, "_find", find)
            made.append(send_by(lifecycle, **body))
        return found

    monkeypatch.setattr(Repeats, "_find", late)
    assert send_by(lifecycle, **body).id == made[0].id


def test_of_many_at_once_one_makes_the_job(settings: Settings, connection: Redis, valkey_url: str) -> None:
    """Each with a connection of its own; each is answered with the one job."""
    barrier, found = threading.Barrier(8), list[JobRecord]()

    def race() -> None:
        with Redis.from_url(valkey_url) as own:
            lifecycle = Lifecycle(own, settings)
            lifecycle.views()
            barrier.wait(10)
            found.append(send_by(lifecycle))

    threads = [threading.Thread(target=race, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    lifecycle = Lifecycle(connection, settings)
    assert len(found) == 8
    assert {rec.id for rec in found} == set(listed(lifecycle))
    assert sorted(rec.replayed for rec in found) == [False] + [True] * 7
    assert lifecycle.queue.waiting()[0] == 1


def test_a_replay_needs_no_room_and_no_worker(
    connection: Redis, valkey_url: str, lifecycle: Lifecycle, send: Send
) -> None:
    """Whatever would be refused now was accepted then."""
    first = send()
    strict = load(redis_url=valkey_url, models=("another",), max_queued_jobs=1, queue_without_worker=False)
    assert send_by(Lifecycle(connection, strict)).id == first.id


def test_a_key_for_a_job_that_waits_for_its_client_is_free_when_that_has_left(
    lifecycle: Lifecycle, worker: PretendWorker
) -> None:
    """It was cancelled for want of a client, which is back; one that is there still has joined."""
    asked = {"model": MODEL, "prompt": "hi", "max_tokens": 10}
    once = replace(Once.keyed("", "/v1/chat/completions", KEY, asked), attended=True)

    def send() -> JobRecord:
        return lifecycle.accept(read_request(asked), once=once)[0]

    first, joined = send(), send()
    assert (joined.id, joined.replayed) == (first.id, True)
    lifecycle.leave(first.id)
    assert lifecycle.get(first.id).state is State.QUEUED
    lifecycle.leave(first.id)
    assert lifecycle.get(first.id).state is State.CANCELLED
    second = send()
    assert (second.replayed, second.id != first.id) == (False, True)
