"""Webhooks in the store: due with the end that they tell of, one sender at a time, gone with their jobs."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from scheduler.errors import ClientError
from scheduler.holding import Progress
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.record import JobRecord
from scheduler.request import read_request
from scheduler.settings import Settings
from scheduler.strays import mend
from scheduler.webhook_delivery import Delivery
from scheduler.webhooks import DUE_KEY, ENDED_KEY, Due, Webhooks, forget_commands
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import due_webhooks, kinds, rq_view
from tests.waiting import Clock

SECRET = "whsec_" + base64.b64encode(b"a client's own secret, of 32 byte").decode()
WEBHOOK = {"url": "https://hooks.example/h?token=t", "secret": SECRET}
OUTCOMES = {
    State.COMPLETED: Outcome(State.COMPLETED, {"text": "a", "finish_reason": "stop"}),
    State.INCOMPLETE: Outcome(State.INCOMPLETE, {"text": "a", "finish_reason": "length"}),
    State.FAILED: Outcome(State.FAILED, error=ClientError("internal_error", "a bug").body()),
    State.CANCELLED: Outcome(State.CANCELLED),
}
LATER = 10_000_000_000.0


@pytest.fixture
def hooks(queue: JobQueue) -> Webhooks:
    """The deliveries."""
    return Webhooks(queue.connection, queue.swap)


@pytest.fixture
def hooked(submit: Submit, worker: PretendWorker, hooks: Webhooks) -> Due:
    """A delivery that is due: a job with a webhook, completed."""
    worker.end(worker.claim(submit(webhook=WEBHOOK).id), OUTCOMES[State.COMPLETED])
    (due,) = due_webhooks(hooks, LATER, 10)
    return due


def events(connection: Redis, job_id: str) -> list[str]:
    """The types of the events that are due for a job."""
    if connection.zscore(DUE_KEY, Job.key_for(job_id)) is None:
        return []
    body: Any = connection.hget(Job.key_for(job_id), "webhook_event")
    return [json.loads(body)["type"]]


@pytest.mark.parametrize("state", OUTCOMES)
def test_a_job_that_a_worker_ends_is_told(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, state: State
) -> None:
    """However it ends, in the swap that ends it; before that nothing is due, whatever happens to it."""
    held = worker.claim(submit(webhook=WEBHOOK).id)
    worker.say(held, "a")
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    held = worker.claim(held.rec.id)
    assert events(connection, held.rec.id) == []
    assert queue.fetch(held.rec.id).view()["webhook"] == {
        "status": "waiting",
        "attempts": 0,
        "last_error": None,
    }
    before = time.time()
    worker.end(held, OUTCOMES[state])
    assert events(connection, held.rec.id) == [f"job.{state}"]
    due: Any = connection.zscore(DUE_KEY, Job.key_for(held.rec.id))
    assert before <= due <= time.time()
    assert queue.fetch(held.rec.id).webhook == Delivery("pending")


def test_an_end_that_is_not_done_is_not_told(
    connection: Redis, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """One swap: a worker that had lost its job tells nobody; the one that ends it tells once."""
    held = worker.claim(submit(webhook=WEBHOOK).id)
    late = worker.holding.prepare([Progress(held, outcome=OUTCOMES[State.FAILED])])
    held.number -= 1
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    again = other.claim(held.rec.id)
    assert worker.holding.send(late, [held]) == [held]
    assert events(connection, held.rec.id) == []
    other.end(again, OUTCOMES[State.COMPLETED])
    assert worker.holding.send(late, [held]) == [held]
    assert events(connection, held.rec.id) == ["job.completed"]


def test_a_job_that_ends_while_it_waits_is_told(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, clock: Clock
) -> None:
    """Cancelled by its client, or because its time was up."""
    cancelled = lifecycle.cancel(submit(webhook=WEBHOOK).id)
    late = submit(webhook=WEBHOOK, queue_timeout=1)
    clock.now += 10
    assert lifecycle.end_overdue() == [late.id]
    assert events(connection, cancelled.id) == ["job.cancelled"]
    assert events(connection, late.id) == ["job.failed"]
    assert connection.zscore(DUE_KEY, Job.key_for(late.id)) == clock.now


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (JobStatus.FAILED, "job.failed"),
        (JobStatus.STOPPED, "job.cancelled"),
        (JobStatus.CANCELED, "job.cancelled"),
    ],
)
def test_a_job_that_rqs_tools_end_is_told(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, status: JobStatus, told: str
) -> None:
    """Where its end is mended, once."""
    held = worker.claim(submit(webhook=WEBHOOK).id)
    rq_view(connection, held.rec.id).set_status(status)
    mend(queue)
    mend(queue)
    assert events(connection, held.rec.id) == [told]
    assert kinds(connection, held.rec.id)[-1] == told.removeprefix("job.")


def test_an_end_is_told_once(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Though RQ's plain worker, which knows of no end, wrote back the fields that it had read before."""
    held = worker.claim(submit(webhook=WEBHOOK).id)
    fields = connection.hmget(Job.key_for(held.rec.id), "meta")
    worker.end(held, OUTCOMES[State.COMPLETED])
    assert connection.zrem(DUE_KEY, Job.key_for(held.rec.id)) == 1  # as if it were sent
    connection.hset(Job.key_for(held.rec.id), mapping={"meta": fields[0], "status": "queued"})
    connection.lpush("rq:queue:standard", held.rec.id)
    worker.end(worker.claim(held.rec.id), OUTCOMES[State.FAILED])
    assert events(connection, held.rec.id) == []
    mend(queue)


def test_a_job_that_is_shown_as_a_response_is_told_as_one(
    connection: Redis, lifecycle: Lifecycle, worker: PretendWorker
) -> None:
    """By what the API noted of it."""
    asked = read_request({"model": MODEL, "prompt": "a", "webhook": WEBHOOK})
    rec = lifecycle.submit(asked, note={"response": {"background": True}})
    worker.end(worker.claim(rec.id), OUTCOMES[State.COMPLETED])
    assert events(connection, rec.id) == ["response.completed"]


def test_a_job_without_a_webhook_tells_nobody(
    connection: Redis, submit: Submit, worker: PretendWorker, queue: JobQueue
) -> None:
    """No field, no entry."""
    held = worker.claim(submit().id)
    worker.complete(held, "a")
    assert not connection.exists(DUE_KEY)
    assert [name for name in connection.hkeys(Job.key_for(held.rec.id)) if b"webhook" in name] == []
    assert queue.fetch(held.rec.id).view()["webhook"] is None


def test_the_secret_stands_in_one_field_alone(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Not in what workers and RQ's tools read as the request, nor in a record, its log or its views."""
    rec = submit(webhook=WEBHOOK)
    held = worker.claim(rec.id)
    worker.complete(held, "a")
    read = queue.fetch(rec.id)
    assert (read.request.webhook, held.rec.request.webhook) == (None, None)
    seen = f"{rec!r} {held!r} {read!r} {read.view()} {read.envelope} {queue.headings([rec.id])}"
    job = rq_view(connection, rec.id)
    seen += f"{job.kwargs} {job.meta} {job.description} {job.get_call_string()}"
    seen += f"{connection.xrange(f'tidegate:events:{rec.id}')} {connection.hgetall('tidegate:waiting')}"
    assert SECRET not in seen
    fields: Any = connection.hgetall(Job.key_for(rec.id))
    assert [name for name, value in fields.items() if SECRET.encode() in value] == [b"webhook_to"]


def test_a_delivery_has_one_sender_at_a_time(hooks: Webhooks, hooked: Due, queue: JobQueue) -> None:
    """Who comes second finds it leased, and not due until the lease lapses; each try counts, finished or not."""
    now = time.time()
    first = hooks.lease(hooked, now, now + 60)
    assert first is not None
    assert hooks.lease(hooked, now, now + 60) is None
    assert not hooks.postpone(hooked, now)
    assert due_webhooks(hooks, now + 59, 10) == []
    (again,) = due_webhooks(hooks, now + 61, 10)
    second = hooks.lease(again, now + 61, now + 120)
    assert second is not None
    assert (second.event_id, second.body) == (first.event_id, first.body)
    assert second.delivery.attempts == 2
    assert not hooks.end(first)
    assert not hooks.retry(first, now, "late")
    assert hooks.end(second)
    key = hooked.key.removeprefix("rq:job:")
    assert queue.fetch(key).view()["webhook"] == {"status": "delivered", "attempts": 2, "last_error": None}


def test_a_delivery_is_not_taken_before_its_time(hooks: Webhooks, hooked: Due) -> None:
    """Though it was seen to be due: another tried meanwhile, and it is to wait."""
    now = time.time()
    leased = hooks.lease(hooked, now, now + 60)
    assert leased is not None
    assert hooks.retry(leased, now + 5, "HTTP 500")
    seen = replace(leased, delivery=replace(leased.delivery, last_error="HTTP 500", stored=None))
    assert hooks.lease(seen, now + 4, now + 60) is None
    assert hooks.lease(seen, now + 5, now + 60) is not None


@pytest.mark.parametrize("error", [None, "HTTP 410"])
def test_what_is_delivered_or_given_up_leaves_no_secret(
    connection: Redis, hooks: Webhooks, hooked: Due, error: str | None
) -> None:
    """Neither the URL nor the event is needed any more; it is counted."""
    leased = hooks.lease(hooked, time.time(), LATER)
    assert leased is not None
    assert hooks.end(leased, error)
    assert connection.hmget(hooked.key, "webhook_to", "webhook_event") == [None, None]
    assert connection.zcard(DUE_KEY) == 0
    ended = {"delivered": 1, "failed": 0} if error is None else {"delivered": 0, "failed": 1}
    assert hooks.counts() == {"pending": 0, "dropped": 0} | ended


def test_a_webhook_is_gone_with_its_job(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, hooks: Webhooks
) -> None:
    """Deleted with a word to the webhooks, or without, or lapsed; nothing brings the job's key back."""
    jobs = list[JobRecord]()
    for _ in range(3):
        jobs.append(submit(webhook=WEBHOOK))
        worker.end(worker.claim(jobs[-1].id), OUTCOMES[State.COMPLETED])
    told, deleted, leased = (Job.key_for(rec.id) for rec in jobs)
    held = hooks.lease(
        next(due for due in due_webhooks(hooks, LATER, 10) if due.key == leased), time.time(), LATER
    )
    assert held is not None
    connection.delete(told, deleted, leased)
    for command in forget_commands([told]):
        connection.execute_command(*command)
    mend(queue)
    assert not connection.exists(DUE_KEY)
    assert not hooks.end(held)
    assert not hooks.retry(held, LATER, "late")
    assert not connection.exists(told, deleted, leased)
    assert hooks.counts() == {"pending": 0, "delivered": 0, "failed": 0, "dropped": 2}


def test_a_deleted_jobs_webhook_is_sent_no_more(
    connection: Redis, lifecycle: Lifecycle, hooks: Webhooks, hooked: Due
) -> None:
    """Nor tried again by whoever is sending it just then; nothing of it is left, and none of it was lost by accident."""
    leased = hooks.lease(hooked, time.time(), LATER)
    assert leased is not None
    lifecycle.delete(hooked.key.removeprefix("rq:job:"))
    assert not hooks.retry(leased, LATER, "HTTP 500")
    assert not connection.exists(DUE_KEY, hooked.key)
    assert hooks.counts() == {"pending": 0, "delivered": 0, "failed": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook", "{"),
        ("webhook", '{"status": "waiting"}'),
        ("webhook_to", "5"),
        ("webhook_event", '{"id": "a\\nb"}'),
        ("webhook_to", None),
        ("webhook_event", None),
        ("webhook", None),
    ],
)
def test_a_delivery_that_cannot_be_read_is_dropped(
    connection: Redis, hooks: Webhooks, hooked: Due, queue: JobQueue, name: str, value: str | None
) -> None:
    """It stands in nobody's way, and its job is read as before."""
    if value is None:
        connection.hdel(hooked.key, name)
    else:
        connection.hset(hooked.key, name, value)
    assert due_webhooks(hooks, LATER, 10) == []
    assert connection.zcard(DUE_KEY) == 0
    assert queue.fetch(hooked.key.removeprefix("rq:job:")).state is State.COMPLETED


@pytest.mark.parametrize(
    "member", ["rq:job:job_gone", "tidegate:jobs", "elsewhere", b"\xff\xfe", "", "rq:job:" + "a" * 200]
)
def test_an_entry_that_leads_nowhere_is_dropped(
    connection: Redis, hooks: Webhooks, hooked: Due, member: str | bytes
) -> None:
    """Those of others behind it are found."""
    connection.zadd(DUE_KEY, {member: 0})
    assert due_webhooks(hooks, LATER, 1) == []
    assert [due.key for due in due_webhooks(hooks, LATER, 1)] == [hooked.key]
    connection.zadd(DUE_KEY, {member: 0})
    hooks.tidy()
    assert connection.zrange(DUE_KEY, 0, -1) == [hooked.key.encode()]


def test_a_refused_webhook_leaves_no_job(connection: Redis, submit: Submit, settings: Settings) -> None:
    """Without a secret there is none to sign with, and where it may not go it is not sent."""
    assert settings.webhook_secret is None
    for webhook in ("https://hooks.example", {"url": "https://127.0.0.1", "secret": SECRET}):
        with pytest.raises(ClientError):
            submit(webhook=webhook)
    assert connection.dbsize() == 0


def test_a_plain_rq_worker_keeps_the_webhook(connection: Redis, submit: Submit, queue: JobQueue) -> None:
    """It writes a job's whole hash again, and not our fields."""
    rec = submit(webhook=WEBHOOK)
    job = Job.fetch(rec.id, connection=connection, serializer=JSONSerializer)
    job.save()
    assert queue.fetch(rec.id).webhook == Delivery()
    assert connection.hexists(job.key, "webhook_to")
    assert not connection.exists(ENDED_KEY)
