"""RQ's queues and registries as the one store of jobs, moved only by swaps.

Waiting jobs are ordinary RQ jobs in ordinary RQ lists. A claim takes a job from its list into RQ's
started registry in one step, so that a job is never between the two, whoever dies.

Keys beside RQ's own::

    tidegate:jobs           sorted set; every job's id, whose order is that of creation (an index for listing)
    tidegate:waiting        hash; waiting job -> tokens of work (an index beside the lists)
    tidegate:waiting:tokens string; their sum
    tidegate:passes         hash; waiting job -> how often smaller ones passed it
    tidegate:deadlines      sorted set; waiting job -> when it has waited too long
    tidegate:wake           channel; something may be claimable
    tidegate:inbox:{worker} channel; a job that the worker holds shall be cancelled
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, Final

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import BaseRegistry, CanceledJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from scheduler.errors import ClientError
from scheduler.events import Kind, LoggedEvent, append_command, events_key, publish_command
from scheduler.job import PRIORITIES, Event, Lease, State, advance
from scheduler.record import (
    CANCEL_FIELD,
    LEASE_FIELD,
    RQ_STATUS,
    JobRecord,
    Meta,
    Outcome,
    read_record,
)
from scheduler.swap import Guard, Swap, Swapper, Word, record

JOBS_KEY: Final = "tidegate:jobs"
WAITING_KEY: Final = "tidegate:waiting"
WAITING_TOKENS_KEY: Final = "tidegate:waiting:tokens"
PASSES_KEY: Final = "tidegate:passes"
DEADLINES_KEY: Final = "tidegate:deadlines"
WAKE_CHANNEL: Final = "tidegate:wake"

JOB_FUNCTION: Final = "workers.run.generate"
"""Enqueued by name: the API never imports the workers."""

_NO_TIMEOUT: Final = -1
_RQ_RETRIES: Final = 100  # so that RQ's own recovery, should it come first, requeues instead of failing


def inbox_channel(worker: str) -> str:
    """Where a worker hears of cancelled jobs."""
    return f"tidegate:inbox:{worker}"


class JobQueue:
    """The store of jobs on one server.

    Args:
        connection: a client that answers bytes.
        result_ttl: seconds that an ended job is kept.
    """

    def __init__(self, connection: Redis, result_ttl: int) -> None:
        self.connection = connection
        self.swap = Swapper(connection)
        self._ttl = result_ttl
        self._queues = {
            name: Queue(name, connection=connection, serializer=JSONSerializer) for name in PRIORITIES
        }

    # Reading

    def fetch(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            ClientError: ``not_found``.
        """
        return self.fetch_many([job_id], missing_ok=False)[0]

    def fetch_many(self, job_ids: Sequence[str], *, missing_ok: bool = True) -> list[JobRecord]:
        """Several jobs in one round trip; those that are gone, or not ours, are left out."""
        pipeline = self.connection.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hgetall(Job.key_for(job_id))
            pipeline.xrevrange(Result.get_key(job_id), count=2)
        replies = pipeline.execute()
        records = []
        for job_id, fields, results in zip(job_ids, replies[::2], replies[1::2], strict=True):
            try:
                records.append(read_record(job_id, fields, _outcome(results)))
            except ClientError:
                if not missing_ok:
                    raise
        return records

    def heads(self, names: Iterable[str], count: int) -> list[list[tuple[JobRecord, int]]]:
        """The first ``count`` waiting jobs of each queue, with how often each was passed."""
        pipeline = self.connection.pipeline(transaction=False)
        for name in names:
            pipeline.lrange(self.rq_queue(name).key, 0, count - 1)
        lists = [[entry.decode() for entry in entries] for entries in pipeline.execute()]
        flat = [job_id for ids in lists for job_id in ids]
        if not flat:
            return [[] for _ in lists]
        passes: Any = self.connection.hmget(PASSES_KEY, flat)
        passed = {job_id: int(times or 0) for job_id, times in zip(flat, passes, strict=True)}
        found = {rec.id: rec for rec in self.fetch_many(flat)}
        return [[(found[job_id], passed[job_id]) for job_id in ids if job_id in found] for ids in lists]

    def waiting(self) -> tuple[int, int]:
        """How many jobs wait, and their tokens of work."""
        pipeline = self.connection.pipeline(transaction=False)
        pipeline.hlen(WAITING_KEY)
        pipeline.get(WAITING_TOKENS_KEY)
        jobs, tokens = pipeline.execute()
        return int(jobs), max(0, int(tokens or 0))

    def position(self, rec: JobRecord) -> int | None:
        """A waiting job's place, from 1, behind every more urgent class; None where it does not wait."""
        ahead = PRIORITIES[: PRIORITIES.index(rec.meta.priority)]
        pipeline = self.connection.pipeline(transaction=False)
        for name in ahead:
            pipeline.llen(self._queues[name].key)
        pipeline.lpos(self._queues[rec.meta.priority].key, rec.id)
        *lengths, place = pipeline.execute()
        return None if place is None else sum(lengths) + place + 1

    def overdue(self, now_seconds: float) -> list[str]:
        """Waiting jobs whose deadline has passed."""
        late: Any = self.connection.zrangebyscore(DEADLINES_KEY, "-inf", now_seconds)
        return [job_id.decode() for job_id in late]

    def rq_queue(self, name: str) -> Queue:
        """RQ's queue of a class, or of another name."""
        return self._queues.get(name) or Queue(name, connection=self.connection, serializer=JSONSerializer)

    def rq_job(self, rec: JobRecord) -> Job:
        """RQ's job for a record, to write with; it reads nothing."""
        job = Job(id=rec.id, connection=self.connection, serializer=JSONSerializer)
        job.origin = rec.meta.priority
        job.timeout, job.result_ttl, job.failure_ttl = _NO_TIMEOUT, self._ttl, self._ttl
        return job

    # Moving

    def submit(self, rec: JobRecord, max_jobs: int, max_tokens: int) -> bool:
        """Put a new job at its queue's end; False where either bound is reached."""
        job = Job.create(
            JOB_FUNCTION,
            kwargs=rec.envelope,
            connection=self.connection,
            id=rec.id,
            serializer=JSONSerializer,
            timeout=_NO_TIMEOUT,
            result_ttl=self._ttl,
            failure_ttl=self._ttl,
            description=f"{rec.meta.model} ({rec.meta.priority})",
            meta=asdict(rec.meta),
        )
        job.retries_left, job.enqueue_at_front_on_retry = _RQ_RETRIES, True
        queue = self._queues[rec.meta.priority]
        first = LoggedEvent(1, Kind.QUEUED)
        swap = Swap(
            guards=(
                Guard(("HLEN", WAITING_KEY), max_jobs - 1, "<="),
                Guard(("GET", WAITING_TOKENS_KEY), max_tokens - rec.meta.work_tokens, "<="),
            ),
            commands=(
                *record(self.connection, lambda pipe: queue.enqueue_job(job, pipeline=pipe)),
                ("ZADD", JOBS_KEY, 0, rec.id),
                *self._enter_commands(rec),
                append_command(rec.id, first),
                publish_command([(rec.id, first)]),
            ),
        )
        return self.swap(swap) == [1]

    def claim(
        self, rec: JobRecord, meta: Meta, lease: Lease, passed: Sequence[str], event: LoggedEvent
    ) -> bool:
        """Take a waiting job for a worker; False where another was first."""
        advance(rec.state, Event.CLAIM)
        job = self.rq_job(rec)
        now = datetime.now(UTC)
        execution = Execution(meta.execution_id or "", rec.id, self.connection, lease.worker)
        fields: dict[str, Word] = {
            "status": JobStatus.STARTED.value,
            "worker_name": lease.worker,
            "started_at": utcformat(now),
            "last_heartbeat": utcformat(now),
            "meta": meta.dump(),
            LEASE_FIELD: str(lease),
        }
        swap = Swap(
            guards=(
                Guard(("HGET", job.key, "status"), JobStatus.QUEUED.value),
                Guard(("LREM", self._queues[rec.meta.priority].key, 1, rec.id), 1),
            ),
            commands=(
                ("HSET", job.key, *_flat(fields)),
                ("PERSIST", job.key),
                *record(self.connection, lambda pipe: _start(execution, job, pipe)),
                *self._leave_commands(rec),
                *(("HINCRBY", PASSES_KEY, other, 1) for other in passed),
                append_command(rec.id, event),
                publish_command([(rec.id, event)]),
            ),
        )
        return self.swap(swap) == [1]

    def requeue(self, rec: JobRecord, meta: Meta, event: LoggedEvent, *, front: bool = True) -> Swap:
        """The swap that puts a held job back to wait."""
        advance(rec.state, Event.REQUEUE)
        job = self.rq_job(rec)
        waiting = replace(rec, meta=meta)
        return Swap(
            guards=(self._held(rec),),
            commands=(
                ("HSET", job.key, "status", JobStatus.QUEUED.value, "meta", meta.dump(), "worker_name", ""),
                ("HDEL", job.key, LEASE_FIELD),
                *record(self.connection, lambda pipe: self._end_execution(rec, job, pipe)),
                ("LPUSH" if front else "RPUSH", self._queues[rec.meta.priority].key, rec.id),
                *self._enter_commands(waiting),
                append_command(rec.id, event),
                publish_command([(rec.id, event)]),
            ),
        )

    def finish(
        self, rec: JobRecord, outcome: Outcome, events: Sequence[LoggedEvent], now_seconds: float
    ) -> Swap:
        """The swap that ends a job: held by its worker, or waiting and cancelled or refused."""
        advance(rec.state, _ENDINGS[outcome.state])
        job = self.rq_job(rec)
        ended = rec.ended(outcome, now_seconds)
        guards: tuple[Guard, ...] = (self._held(rec),)
        leave: tuple[tuple[Word, ...], ...] = ()
        if rec.state is State.QUEUED:
            guards = (
                Guard(("HGET", job.key, "status"), JobStatus.QUEUED.value),
                Guard(("LREM", self._queues[rec.meta.priority].key, 1, rec.id), 1),
            )
            leave = tuple(self._leave_commands(rec))
        return Swap(
            guards=guards,
            commands=(
                ("HSET", job.key, "meta", ended.meta.dump(), "ended_at", utcformat(datetime.now(UTC))),
                ("HDEL", job.key, LEASE_FIELD, CANCEL_FIELD),
                *record(self.connection, lambda pipe: self._end(rec, outcome, job, pipe)),
                *leave,
                *(append_command(rec.id, event) for event in events),
                ("EXPIRE", events_key(rec.id), self._ttl),
                ("EXPIRE", job.key, self._ttl),
            ),
        )

    def append(self, rec: JobRecord, event: LoggedEvent | None, meta: Meta | None = None) -> Swap:
        """The swap that writes an event of a held job, or new fields, or both."""
        commands: list[tuple[Word, ...]] = []
        if event is not None:
            commands.append(append_command(rec.id, event))
        if meta is not None:
            commands.append(("HSET", Job.key_for(rec.id), "meta", meta.dump()))
        return Swap((self._held(rec),), tuple(commands))

    def publish(self, news: Sequence[tuple[str, LoggedEvent]]) -> Swap:
        """The swap that tells readers of events just written."""
        return Swap(commands=(publish_command(news),))

    def give_back(self, rec: JobRecord) -> bool:
        """Put a job that a plain RQ worker dequeued where a claim finds it; False where that is done."""
        job = self.rq_job(rec)
        swap = Swap(
            guards=(
                Guard(("HGET", job.key, "status"), JobStatus.STARTED.value),
                Guard(("HGET", job.key, LEASE_FIELD), ""),
            ),
            commands=(
                ("HSET", job.key, "status", JobStatus.QUEUED.value),
                ("LPUSH", self._queues[rec.meta.priority].key, rec.id),
                *self._leave_commands(rec),
                *self._enter_commands(rec),
            ),
        )
        return self.swap(swap) == [1]

    def ask_cancel(self, rec: JobRecord) -> bool:
        """Mark a held job as unwanted and tell its worker; False where it is not held so any more."""
        worker = Lease.parse(rec.lease or "?/0").worker
        swap = Swap(
            guards=(self._held(rec),),
            commands=(
                ("HSET", Job.key_for(rec.id), CANCEL_FIELD, 1),
                ("PUBLISH", inbox_channel(worker), rec.id),
            ),
        )
        return self.swap(swap) == [1]

    def reconcile(self) -> None:
        """Drop index entries whose jobs do not wait any more or are gone, as after `rq empty`."""
        entries: Any = self.connection.hgetall(WAITING_KEY)
        pipeline = self.connection.pipeline(transaction=False)
        for job_id in entries:
            pipeline.hget(Job.key_for(job_id.decode()), "status")
        statuses = pipeline.execute() if entries else []
        stale = [job for job, status in zip(entries, statuses, strict=True) if status != b"queued"]
        for job_id in stale:
            tokens = int(entries[job_id])
            self.swap(
                Swap((Guard(("HDEL", WAITING_KEY, job_id), 1),), (("DECRBY", WAITING_TOKENS_KEY, tokens),))
            )
            self.connection.hdel(PASSES_KEY, job_id)
            self.connection.zrem(DEADLINES_KEY, job_id)
        oldest: Any = self.connection.zrange(JOBS_KEY, 0, 999)
        for job_id in oldest:
            pipeline.exists(Job.key_for(job_id.decode()))
        gone = [
            job
            for job, exists in zip(oldest, pipeline.execute() if oldest else [], strict=True)
            if not exists
        ]
        if gone:
            self.connection.delete(*(events_key(job.decode()) for job in gone))
            self.connection.zrem(JOBS_KEY, *gone)

    def _held(self, rec: JobRecord) -> Guard:
        return Guard(("HGET", Job.key_for(rec.id), LEASE_FIELD), rec.lease or "?")

    def _enter_commands(self, rec: JobRecord) -> Iterable[tuple[Word, ...]]:
        yield ("HSET", WAITING_KEY, rec.id, rec.meta.work_tokens)
        yield ("INCRBY", WAITING_TOKENS_KEY, rec.meta.work_tokens)
        if rec.meta.queue_deadline is not None and not rec.meta.attempt:
            yield ("ZADD", DEADLINES_KEY, rec.meta.queue_deadline, rec.id)
        yield ("PUBLISH", WAKE_CHANNEL, rec.meta.priority)

    def _leave_commands(self, rec: JobRecord) -> Iterable[tuple[Word, ...]]:
        yield ("HDEL", WAITING_KEY, rec.id)
        yield ("DECRBY", WAITING_TOKENS_KEY, rec.meta.work_tokens)
        yield ("HDEL", PASSES_KEY, rec.id)
        yield ("ZREM", DEADLINES_KEY, rec.id)

    def _end_execution(self, rec: JobRecord, job: Job, pipe: Pipeline) -> None:
        if rec.lease and rec.meta.execution_id:
            worker = Lease.parse(rec.lease).worker
            Execution(rec.meta.execution_id, rec.id, self.connection, worker).delete(job, pipe)

    def _end(self, rec: JobRecord, outcome: Outcome, job: Job, pipe: Pipeline) -> None:
        status = RQ_STATUS[outcome.state]
        if outcome.state is State.CANCELLED and rec.lease:
            status = JobStatus.STOPPED
        job.set_status(status, pipeline=pipe)
        self._end_execution(rec, job, pipe)
        worker = Lease.parse(rec.lease).worker if rec.lease else ""
        Result.create(
            job,
            Result.Type.SUCCESSFUL if status is JobStatus.FINISHED else Result.Type.FAILED,
            self._ttl,
            return_value=asdict(outcome),
            exc_string=(outcome.error or {}).get("message") or outcome.state.value,
            worker_name=worker,
            pipeline=pipe,
            execution_id=rec.meta.execution_id,
        )
        registry: BaseRegistry
        if status is JobStatus.FINISHED:
            registry = job.finished_job_registry
        elif status is JobStatus.CANCELED:
            registry = CanceledJobRegistry(job.origin, self.connection, serializer=JSONSerializer)
        else:
            registry = job.failed_job_registry
        BaseRegistry.add(registry, job, self._ttl, pipeline=pipe)


_ENDINGS: Final = {
    State.COMPLETED: Event.COMPLETE,
    State.INCOMPLETE: Event.RUN_OUT,
    State.FAILED: Event.FAIL,
    State.CANCELLED: Event.CANCEL,
}


def _start(execution: Execution, job: Job, pipe: Pipeline) -> None:
    """What :meth:`rq.executions.Execution.create` writes, with an id that is known beforehand."""
    ttl = 120
    execution.save(ttl=ttl, pipeline=pipe)
    job.execution_registry.add(execution=execution, ttl=ttl, pipeline=pipe)
    job.started_job_registry.add_execution(execution, pipeline=pipe, ttl=ttl, xx=False)
    pipe.sadd(execution.worker_executions_key, execution.composite_key)
    pipe.expire(execution.worker_executions_key, ttl + 60)


def _flat(fields: dict[str, Word]) -> list[Word]:
    return [word for pair in fields.items() for word in pair]


def _outcome(results: list[tuple[bytes, dict[bytes, bytes]]]) -> Outcome | None:
    """The outcome in RQ's newest results; a plain worker adds one of its own after ours."""
    for _, fields in results:
        value = json.loads(base64.b64decode(fields.get(b"return_value", b"bnVsbA==")))
        if isinstance(value, dict) and "state" in value:
            return Outcome(State(value["state"]), value.get("result"), value.get("error"))
    return None
