"""Jobs and records of a later release among ours: left to those that read them, and never the poorer for it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from rq.job import Job

from scheduler import fleet
from scheduler.deletion import deletion_swap
from scheduler.errors import ClientError
from scheduler.events import Kind, LoggedEvent, events_key, last_number, read_events
from scheduler.fleet import WorkerReport
from scheduler.holding import Held
from scheduler.job import PRIORITIES, State
from scheduler.keyring import KeyBook, read_keys
from scheduler.keys import new_key
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.queue import JobQueue
from scheduler.record import JobRecord, Meta
from scheduler.recovery import recover
from scheduler.request import read_request
from scheduler.reserving import Reserving
from scheduler.settings import load
from scheduler.strays import mend
from scheduler.versions_waiting import versions_waiting
from scheduler.webhook_delivery import Delivery
from tests.conftest import MODEL
from tests.pretend_worker import CARD, PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, nothing_waits
from tests.waiting import Clock
from workers.claiming import Claiming
from workers.planning import Planning
from workers.residency import Residency

NEW_FIELDS: dict[str, Any] = {"hue": {"deep": [1, None]}, "later": "too", "pool": "east"}
Later = Callable[..., JobRecord]


def stored(connection: Redis, job_id: str) -> dict[str, Any]:
    """A job's meta as it stands on the server."""
    text: Any = connection.hget(Job.key_for(job_id), "meta")
    return dict(json.loads(text))


def carried(connection: Redis, job_id: str) -> bool:
    """Whether a job has all of what a later release wrote, as it wrote it."""
    meta = stored(connection, job_id)
    return meta["version"] == 2 and all(meta[name] == value for name, value in NEW_FIELDS.items())


@pytest.fixture
def later(connection: Redis, submit: Submit) -> Later:
    """Submits a job as an API of a later release does."""

    def submitted(**fields: Any) -> JobRecord:
        rec = submit(**fields)
        meta = rec.meta.fields() | {"version": 2} | NEW_FIELDS
        connection.hset(Job.key_for(rec.id), "meta", json.dumps(meta))
        return rec

    return submitted


def claims_of(lifecycle: Lifecycle, worker: PretendWorker) -> tuple[Claiming, Ledger]:
    """A real worker's claims."""
    residency = Residency({MODEL: "nowhere"}, lambda _: None)
    planning = Planning(Reserving(), lifecycle.histories.answers)
    ledger = Ledger(1 << 30, 512, 4)
    ledger.admit_model(CARD)
    return Claiming(lifecycle, worker.holding, PRIORITIES, time.time, residency, planning), ledger


def hold_as_later(worker: PretendWorker, rec: JobRecord, monkeypatch: pytest.MonkeyPatch) -> Held:
    """A worker of the later release takes its job."""
    with monkeypatch.context() as patched:
        patched.setattr("scheduler.holding.is_ours", lambda _: True)
        held = worker.holding.claim(worker.queue.fetch(rec.id), worker.queue.fetch(rec.id).meta, ())
    assert held is not None
    return held


def test_a_later_job_at_the_head_is_left_and_holds_nobody_up(
    connection: Redis, lifecycle: Lifecycle, later: Later, submit: Submit, worker: PretendWorker
) -> None:
    """Its owner's next job is claimed; nothing is promised, passed, blocked or changed, however often one looks."""
    first, ours = later(), submit()
    claims, ledger = claims_of(lifecycle, worker)
    held = claims.claim(ledger, None)
    assert held is not None and held.rec.id == ours.id
    for _ in range(3):
        claims.forget()
        assert claims.claim(ledger, None) is None
    assert not claims.anything_waits(ledger)
    assert claims.promises.starts_at == {} and claims.victims(ledger, None, ()) == ()
    assert not connection.exists("tidegate:passes")
    assert carried(connection, first.id) and kinds(connection, first.id) == ["queued"]
    assert lifecycle.queue.rq_queue("standard").job_ids == [first.id]


def test_many_later_jobs_before_ours_do_not_hide_it(
    lifecycle: Lifecycle, later: Later, submit: Submit, worker: PretendWorker
) -> None:
    """More than one look's first page of them."""
    for _ in range(2 * lifecycle.settings.claim_lookahead + 1):
        later()
    ours = submit()
    claims, ledger = claims_of(lifecycle, worker)
    held = claims.claim(ledger, None)
    assert held is not None and held.rec.id == ours.id


def test_later_jobs_count_towards_the_queues_bounds(
    connection: Redis, valkey_url: str, clock: Clock, later: Later
) -> None:
    """They wait, whoever will run them."""
    later()
    narrow = Lifecycle(connection, load(redis_url=valkey_url, models=(MODEL,), max_queued_jobs=1), clock)
    with pytest.raises(ClientError, match="at most 1 "):
        narrow.submit(read_request({"model": MODEL, "prompt": "x", "max_tokens": 1}))


def test_what_waits_is_counted_by_version(
    connection: Redis, later: Later, submit: Submit, lifecycle: Lifecycle
) -> None:
    """Of all classes; what others put into a list counts for nothing."""
    submit()
    later(priority="batch")
    later(priority="interactive")
    odd = [Job.key_for(f"job_{n}") for n in range(3)]
    connection.set(odd[0], "no hash")
    connection.hset(odd[1], "meta", "[" * 100_000)
    for key in odd:
        lifecycle.queue.rq_queue("standard").push_job_id(key.removeprefix("rq:job:"))
    assert versions_waiting(connection) == {1: 1, 2: 2}
    for key in odd:
        connection.lrem("rq:queue:standard", 0, key.removeprefix("rq:job:"))
    connection.delete(*odd)


def test_a_later_job_expires_by_its_own_deadline(
    connection: Redis, lifecycle: Lifecycle, later: Later, clock: Clock
) -> None:
    """Whichever release looks; and it keeps what it had."""
    rec = later(queue_timeout=5)
    clock.now += 6
    assert lifecycle.end_overdue() == [rec.id]
    ended = lifecycle.get(rec.id)
    assert ended.outcome is not None and ended.outcome.error is not None
    assert ended.outcome.error["code"] == "queue_timeout"
    assert carried(connection, rec.id) and nothing_waits(lifecycle.queue)


def test_a_later_job_is_shown_listed_cancelled_and_deleted(
    connection: Redis, lifecycle: Lifecycle, later: Later
) -> None:
    """By any API."""
    rec, gone = later(metadata={"a": "b"}), later()
    view = lifecycle.view(lifecycle.get(rec.id))
    assert (view["status"], view["metadata"], view["queue"]["position"]) == ("queued", {"a": "b"}, 1)
    assert [each.id for each in lifecycle.page(status=("queued",)).records] == [gone.id, rec.id]
    assert lifecycle.cancel(rec.id).state is State.CANCELLED
    assert carried(connection, rec.id)
    lifecycle.delete(gone.id)
    assert not connection.exists(Job.key_for(gone.id), events_key(gone.id))
    mend(lifecycle.queue)
    assert nothing_waits(lifecycle.queue)


def test_a_job_whose_request_nobody_here_understands_is_shown(
    connection: Redis, lifecycle: Lifecycle, later: Later
) -> None:
    """A later release may keep it in another form."""
    rec = later()
    envelope = json.dumps(["workers.run.generate", None, [], {"version": 2, "request": "in another form"}])
    connection.hset(Job.key_for(rec.id), "data", envelope)
    assert lifecycle.view(lifecycle.get(rec.id))["status"] == "queued"
    lifecycle.delete(rec.id)
    mend(lifecycle.queue)


def test_a_later_job_that_lost_its_worker_waits_again_whole(
    connection: Redis,
    queue: JobQueue,
    later: Later,
    worker: PretendWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker of ours puts it back, by its lease and attempt, with its tokens and all that it had."""
    rec = later()
    held = hold_as_later(worker, rec, monkeypatch)
    worker.say(held, "so far")
    said = LoggedEvent(held.number + 1, Kind.OTHER, {"tokens": 1, "logprobs": [1]})
    connection.xadd(events_key(rec.id), {"kind": "teapot", "data": json.dumps(said.data)}, f"{said.number}-0")
    assert last_number(connection, rec.id) == said.number
    fleet.withdraw(connection, worker.name)
    assert recover(queue, PRIORITIES, "ours", set()) == [rec.id]
    assert carried(connection, rec.id)
    assert (stored(connection, rec.id)["attempt"], stored(connection, rec.id)["made_tokens"]) == (1, 1)
    assert kinds(connection, rec.id) == ["queued", "started", "delta", "other", "requeued"]
    assert read_events(connection, rec.id)[-1].number == said.number + 1


def test_a_held_later_job_is_cancelled_and_deleted(
    queue: JobQueue,
    lifecycle: Lifecycle,
    later: Later,
    worker: PretendWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its worker is asked to, and what it says of a deleted one is lost."""
    rec = later()
    held = hold_as_later(worker, rec, monkeypatch)
    assert lifecycle.cancel(rec.id).cancel_requested and worker.cancel_wanted(held)
    assert queue.swap(deletion_swap(queue, queue.fetch(rec.id))) == [1]
    worker.say(held, "late")
    assert not queue.connection.exists(events_key(rec.id))


def test_a_worker_says_which_versions_it_runs(
    connection: Redis, lifecycle: Lifecycle, worker: PretendWorker, clock: Clock, valkey_url: str
) -> None:
    """A job that no live worker reads waits as without one, or is refused, as the operator wants it; a worker that
    does not say reads the first version.
    """
    said = json.loads(worker.report().dump())
    del said["envelope_versions"]
    assert WorkerReport.parse(json.dumps(said | {"hue": 1}).encode()).envelope_versions == (1,)
    worker.report(envelope_versions=(2, 3))
    clock.now += 60
    assert lifecycle.takers(Meta(model=MODEL)) == []
    assert [each.name for each in lifecycle.takers(Meta(model=MODEL, version=3))] == [worker.name]
    strict = load(redis_url=valkey_url, models=(MODEL,), queue_without_worker=False)
    with pytest.raises(ClientError, match="no live worker") as refused:
        Lifecycle(connection, strict, clock).submit(read_request({"model": MODEL, "prompt": "x"}))
    assert refused.value.code == "no_worker"


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_later_release_adds_survives_each_read_and_write(seed: int) -> None:
    """In a job's fields, in how a webhook's delivery stands, in a key."""
    draw = random.Random(seed)
    added = {f"x{at}": draw.choice([None, True, 1.5, "é", [1, {}], {"a": []}]) for at in range(4)}
    meta = Meta.parse(json.dumps(Meta(model="m").fields() | added))
    assert json.loads(meta.dump()) == Meta(model="m").fields() | added
    delivery = Delivery.parse(json.dumps({"status": "pending", "attempts": 2} | added).encode())
    assert delivery is not None
    assert added.items() <= json.loads(delivery.dump()).items()


def test_a_keys_limits_of_a_later_release_stay_when_it_is_changed(connection: Redis) -> None:
    """Else an older command would widen what a key may do."""
    _, key = new_key(1.0, name="ann")
    fields = json.loads(key.dump()) | {"spend_most": 5}
    connection.hset("tidegate:keys", key.owner, json.dumps(fields))
    (read,) = read_keys(connection)[0].by_owner.values()
    assert read == key
    assert KeyBook(connection).change(read.changed(queued_jobs=3))
    text: Any = connection.hget("tidegate:keys", key.owner)
    assert json.loads(text) == fields | {"queued_jobs": 3}
    connection.delete("tidegate:keys")
