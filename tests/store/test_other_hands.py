"""What others do to the queue: RQ's tools, plain workers, later versions, and worse."""

from __future__ import annotations

import json
import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer, PickleSerializer

from scheduler.batch_account import Holder
from scheduler.errors import ClientError
from scheduler.foresight import Row
from scheduler.job import PRIORITIES, State, new_job_id
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.record import Meta, read_record
from scheduler.slip import WAITING_KEY, Slip
from scheduler.strays import mend
from scheduler.waiting import WAITING_TOKENS_KEY, class_tokens_key
from tests.conftest import MODEL
from tests.plans import WORST_CASE
from tests.pretend_worker import CARD, PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, nothing_waits, rq_view, snapshot
from workers.claiming import Claiming
from workers.residency import Residency


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle's way to run what it reads."""
        return (Path.touch, (self.path,))


def rq_queue(connection: Redis, name: str = "standard") -> Queue:
    """A queue as RQ's own tools open it."""
    return Queue(name, connection=connection, serializer=JSONSerializer)


def heads(queue: JobQueue) -> list[str]:
    """The jobs that a claim looks at."""
    return [rec.id for jobs in queue.heads(PRIORITIES, 16) for rec, _ in jobs]


def claiming(lifecycle: Lifecycle, worker: PretendWorker) -> tuple[Claiming, Ledger]:
    """A worker's own claims, with its model in memory."""
    ledger = Ledger(1 << 30, 512, 4)
    ledger.admit_model(CARD)
    residency = Residency({MODEL: "nowhere"}, lambda _: None)
    return Claiming(lifecycle, worker.holding, PRIORITIES, lifecycle._clock, residency, WORST_CASE), ledger


def plain_dequeue(connection: Redis) -> Job:
    """What a plain ``rq worker`` does before it calls the job's function."""
    found = Queue.dequeue_any([rq_queue(connection)], None, connection=connection, serializer=JSONSerializer)
    assert found is not None
    with connection.pipeline() as pipe:
        found[0].prepare_for_execution("plain", pipe)
        pipe.lrem(found[1].intermediate_queue_key, 1, found[0].id)
        pipe.execute()
    return found[0]


def test_rq_empty_leaves_nothing_behind(connection: Redis, lifecycle: Lifecycle, submit: Submit) -> None:
    """The jobs are gone; indexes, logs and the listing follow, and the bounds are free again."""
    jobs = [submit(queue_timeout=9).id for _ in range(3)]
    kept = submit(priority="batch", queue_timeout=9)
    rq_queue(connection).empty()
    mend(lifecycle.queue)
    assert lifecycle.queue.waiting() == (1, kept.meta.work_tokens)
    assert [rec.id for rec in lifecycle.page().records] == [kept.id]
    assert not connection.exists(*(f"tidegate:events:{job}" for job in jobs))
    assert connection.zrange("tidegate:deadlines", 0, -1) == [kept.id.encode()]


@pytest.mark.parametrize("by", ["rq", "hand"])
def test_a_deleted_job_stands_in_nobodys_way(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, by: str
) -> None:
    """Deleted by RQ, or its key by hand: not listed, not claimed, not in the list any more."""
    gone, left = submit(), submit()
    if by == "rq":
        rq_view(connection, gone.id).delete()
    else:
        connection.delete(Job.key_for(gone.id))
    with pytest.raises(ClientError, match="no job"):
        lifecycle.get(gone.id)
    mend(lifecycle.queue)
    assert rq_queue(connection).job_ids == [left.id]
    worker.claim(left.id)
    assert nothing_waits(lifecycle.queue)


def test_a_job_deleted_while_it_runs_is_lost_to_its_worker(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Its next word changes nothing, and tells the worker."""
    held = worker.claim(submit().id)
    rq_view(connection, held.rec.id).delete()
    with pytest.raises(AssertionError):
        worker.complete(held, "a")
    mend(lifecycle.queue)
    assert not connection.exists(Job.key_for(held.rec.id), f"tidegate:events:{held.rec.id}")


def test_a_job_that_moved_while_indexes_were_mended_keeps_its_entry(
    connection: Redis, queue: JobQueue, submit: Submit
) -> None:
    """Only what is wrong is dropped; a sound queue is left to the byte."""
    for priority in PRIORITIES:
        submit(priority=priority, queue_timeout=9)
    before = snapshot(connection)
    mend(queue)
    assert snapshot(connection) == before


@pytest.mark.parametrize("amiss", [-50, 1, 10**9])
def test_a_miscounted_sum_is_mended(connection: Redis, queue: JobQueue, submit: Submit, amiss: int) -> None:
    """Nothing latches: whatever the sums say, the jobs that wait are the truth."""
    rec = submit()
    for key in (WAITING_TOKENS_KEY, *map(class_tokens_key, PRIORITIES)):
        connection.incrby(key, amiss)
    mend(queue)
    assert queue.waiting() == (1, rec.meta.work_tokens)
    assert queue.waiting_by_class() == {"interactive": (0, 0), "standard": queue.waiting(), "batch": (0, 0)}
    assert connection.hgetall(WAITING_KEY) == {rec.id.encode(): str(Slip.of(rec)).encode()}


def test_a_plain_workers_job_is_given_back_and_claimed(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """It waits at the front as before, once; given back twice is once; a held job is not given back."""
    rec, behind = submit(), submit()
    plain_dequeue(connection)
    assert queue.fetch(rec.id).state is State.IN_PROGRESS
    assert queue.give_back(queue.fetch(rec.id))
    assert not queue.give_back(queue.fetch(rec.id))
    assert rq_queue(connection).job_ids == [rec.id, behind.id]
    assert queue.waiting() == (2, rec.meta.work_tokens + behind.meta.work_tokens)
    held = worker.claim(rec.id)
    assert not queue.give_back(queue.fetch(rec.id))
    worker.complete(held, "a")
    worker.complete(worker.claim(behind.id), "b")
    assert nothing_waits(queue)
    assert kinds(connection, rec.id) == ["queued", "started", "completed"]


def test_a_plain_workers_retry_does_not_rewind_a_job(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """RQ writes back the fields that it read before the attempt; the log tells how far the job is."""
    rec = submit()
    plain = plain_dequeue(connection)
    queue.give_back(queue.fetch(rec.id))
    held = worker.claim(rec.id)
    worker.say(held, "so ", tokens=[5, 6])
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    with connection.pipeline() as pipe:
        plain.retry(rq_queue(connection), pipe)
        pipe.execute()
    assert queue.fetch(rec.id).meta.attempt == 0
    again = other.claim(rec.id)
    assert (again.lease.attempt, again.tokens) == (2, [5, 6])
    other.say(again, "far", tokens=[7])
    other.complete(again, "so far")
    assert kinds(connection, rec.id) == [
        *("queued", "started", "delta", "requeued"),
        *("started", "delta", "completed"),
    ]
    mend(queue)


def test_mending_between_a_plain_dequeue_and_its_giving_back_heals(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """Another worker's tidying saw the job not waiting: the sums come right all the same."""
    rec = submit()
    plain_dequeue(connection)
    mend(queue)
    assert nothing_waits(queue)
    assert queue.give_back(queue.fetch(rec.id))
    mend(queue)
    assert queue.waiting() == (1, rec.meta.work_tokens)
    worker.claim(rec.id)
    assert nothing_waits(queue)


def test_a_job_of_another_version_is_left_to_others(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """An envelope that this worker does not know is neither claimed, nor failed, nor changed."""
    later, ours = submit(), submit()
    job = rq_view(connection, later.id)
    job.kwargs = {"version": 2, "request": job.kwargs["request"], "more": 1}
    job.save()
    before = connection.hgetall(Job.key_for(later.id))
    claims, ledger = claiming(lifecycle, worker)
    held = claims.claim(ledger, None)
    assert held is not None
    assert held.rec.id == ours.id
    assert claims.claim(ledger, None) is None
    assert connection.hgetall(Job.key_for(later.id)) == before
    assert rq_queue(connection).job_ids == [later.id]


def test_a_request_that_this_version_does_not_take_is_said_so(
    connection: Redis, lifecycle: Lifecycle, submit: Submit
) -> None:
    """The record is read; its request raises as a client's error, not as a surprise."""
    rec = submit()
    job = rq_view(connection, rec.id)
    job.kwargs = {**job.kwargs, "request": {"model": MODEL, "best_of": 3}}
    job.save()
    with pytest.raises(ClientError) as caught:
        _ = lifecycle.get(rec.id).request
    assert caught.value.code == "invalid_request"


def test_nothing_from_the_store_is_unpickled(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, tmp_path: Path
) -> None:
    """A pickled call, pickled fields and a pickled result stay bytes: not found, not claimed, not run (rule 8).

    A list goes by a job's small fields, and does not look at its call.
    """
    mark = tmp_path / "executed"
    trap = pickle.dumps(Trap(mark))
    pickle.loads(trap)
    assert mark.exists(), "the trap works"
    mark.unlink()
    rec, victim = submit(), submit()
    connection.hset(Job.key_for(rec.id), "data", zlib.compress(trap))
    connection.hset(Job.key_for(victim.id), "meta", trap)
    foreign = Queue("standard", connection=connection, serializer=PickleSerializer)
    foreign.enqueue("os.getcwd", Trap(mark), job_id=new_job_id(), meta={"trap": Trap(mark)})
    connection.xadd(f"rq:results:{rec.id}", {"type": 1, "return_value": trap})
    assert heads(lifecycle.queue) == []
    assert [listed.id for listed in lifecycle.page().records] == [rec.id]
    for job in foreign.job_ids:
        with pytest.raises(ClientError) as caught:
            lifecycle.get(job)
        assert caught.value.code == "not_found"
    mend(lifecycle.queue)
    assert not mark.exists()


@pytest.mark.parametrize(
    "field",
    [
        {"data": b"rubbish"},
        {"data": zlib.compress(b"[1, 2]")},
        {"data": zlib.compress(b'["f", null, [], 5]')},
        {"data": zlib.compress(b'["f", null, [], null]')},
        {"meta": b"rubbish"},
        {"meta": b"[]"},
        {"meta": b"5"},
        {"meta": b"\xff\x00"},
        {"meta": b"[" * 100_000},
        {"data": zlib.compress(b"[" * 100_000)},
        {"meta": b'{"ended_as": "eaten"}'},
    ],
    ids=lambda field: str(field)[:40],
)
def test_rubbish_in_a_job_is_not_a_job(
    connection: Redis, queue: JobQueue, submit: Submit, field: dict[str, bytes]
) -> None:
    """It is not found, and those behind it are."""
    broken, sound = submit(), submit()
    connection.hset(Job.key_for(broken.id), mapping=field)  # type: ignore[arg-type]
    with pytest.raises(ClientError) as caught:
        queue.fetch(broken.id)
    assert caught.value.code == "not_found"
    assert heads(queue) == [sound.id]


@pytest.mark.parametrize(
    "value", [b"rubbish", b"e30=", b"WzVd", b"eyJzdGF0ZSI6ICJCYXZhcmlhIn0=", b"bnVsbA==", b"IQ==="]
)
def test_anothers_result_is_not_an_outcome(
    connection: Redis, queue: JobQueue, submit: Submit, value: bytes
) -> None:
    """A result that is not ours, whatever it is, ends nothing and breaks nothing."""
    rec = submit()
    connection.xadd(f"rq:results:{rec.id}", {"type": 1, "return_value": value})
    read = queue.fetch(rec.id)
    assert (read.outcome, read.state) == (None, State.QUEUED)


def test_a_job_that_is_not_ours_is_left_in_its_queue(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Someone else's function in our queue: a claim steps over it; RQ's own workers may run it."""
    foreign = rq_queue(connection).enqueue("os.getcwd", job_id="someone-elses", ttl=60)
    rec = submit()
    claims, ledger = claiming(lifecycle, worker)
    held = claims.claim(ledger, None)
    assert held is not None
    assert held.rec.id == rec.id
    mend(lifecycle.queue)
    assert rq_queue(connection).job_ids == [foreign.id]
    foreign.delete()


def test_a_job_requeued_with_rqs_tools_does_not_run_twice(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """``rq requeue`` of a failed job: it has ended for its client, and stays so; it stands in no list for long."""
    held = worker.claim(submit().id)
    worker.fail(held, ClientError("internal_error", "why"))
    rq_view(connection, held.rec.id).requeue()
    assert heads(lifecycle.queue) == []
    claims, ledger = claiming(lifecycle, worker)
    assert claims.claim(ledger, None) is None
    assert lifecycle.get(held.rec.id).state is State.FAILED
    mend(lifecycle.queue)
    job = rq_view(connection, held.rec.id)
    assert (rq_queue(connection).job_ids, job.get_status()) == ([], JobStatus.FAILED)
    assert job.id in job.failed_job_registry
    assert 0 < connection.ttl(job.key) <= lifecycle.queue.result_ttl
    assert nothing_waits(lifecycle.queue)


def test_a_missing_field_is_not_found() -> None:
    """A hash without data or meta is no job of ours, whatever else it has."""
    for fields in ({}, {b"data": b"x"}, {b"meta": b"{}"}, {b"status": b"queued"}):
        with pytest.raises(ClientError, match="no job"):
            read_record("job_x", fields, None)


def test_no_meta_is_the_default_meta() -> None:
    """Lacking fields take their defaults."""
    assert Meta.parse(None) == Meta.parse(b"") == Meta.parse(b"{}") == Meta()
    assert Meta.parse(json.dumps({"attempt": 3, "hue": 1})) == replace(Meta(), attempt=3)


def test_claimed_memory_is_held_by_its_attempt(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """A worker's claim reserves under job and attempt, and says what it reserved."""
    rec = submit()
    claims, ledger = claiming(lifecycle, worker)
    held = claims.claim(ledger, None)
    assert held is not None
    assert list(ledger.holders) == [Holder(rec.id, 1)]
    assert lifecycle.get(rec.id).meta.reserved_bytes == ledger.reserved_bytes
    assert ledger.rows(MODEL)[held.holder] == Row(rec.meta.prompt_tokens, 10)


def test_rq_status_words_stay_ours_to_read(connection: Redis, queue: JobQueue, submit: Submit) -> None:
    """A job that RQ's tools cancelled reads as cancelled, though no verb of ours ended it."""
    rec = submit()
    rq_view(connection, rec.id).cancel()
    assert rq_view(connection, rec.id).get_status() is JobStatus.CANCELED
    assert queue.fetch(rec.id).state is State.CANCELLED
    mend(queue)
    assert nothing_waits(queue)


def test_a_stray_in_a_list_is_not_claimed(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """RQ's status says that it does not wait, whatever list it stands in; tidying takes it out."""
    rec = submit()
    seen = queue.fetch(rec.id)
    connection.hset(Job.key_for(rec.id), "status", "canceled")
    assert worker.holding.claim(seen, seen.meta, ()) is None
    assert rq_queue(connection).job_ids == [rec.id]
    mend(queue)
    assert rq_queue(connection).job_ids == []
