"""RQ's queues and registries as the one store of jobs, moved only by swaps.

Waiting jobs are ordinary RQ jobs in ordinary RQ lists. A claim takes a job from its list into RQ's
started registry in one step, so that a job is never between the two, whoever dies.

Keys beside RQ's own, and those of :mod:`scheduler.waiting`, :mod:`scheduler.events`, :mod:`scheduler.webhooks`::

    tidegate:jobs           sorted set; every job's id, whose order is that of creation, for listing
    tidegate:inbox:{worker} channel; a job that the worker holds shall be cancelled
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from redis import Redis
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from scheduler import lanes
from scheduler.events import Kind, LoggedEvent, append_command, events_key, publish_command
from scheduler.job import Event, Lease, State, advance
from scheduler.outcome import Outcome
from scheduler.record import CANCEL_FIELD, LEASE_FIELD, JobRecord, Meta
from scheduler.rq_records import NO_TIMEOUT, end_execution, end_job, rq_job, start_execution
from scheduler.shares import Turn
from scheduler.shelf import Shelf
from scheduler.slip import Slip
from scheduler.standing import Standing, read_standing, standing_commands
from scheduler.swap import Guard, Swap, Swapper, Word, record
from scheduler.waiting import Bounds, enter_commands, leave_commands, pass_swap
from scheduler.webhooks import end_commands, promise_commands

JOBS_KEY: Final = "tidegate:jobs"

JOB_FUNCTION: Final = "workers.run.generate"
"""Enqueued by name: the API never imports the workers."""

_NOTHING: Final = Swap()
_RQ_RETRIES: Final = 100  # so that RQ's own recovery, should it come first, requeues instead of failing


def inbox_channel(worker: str) -> str:
    """Where a worker hears of cancelled jobs."""
    return f"tidegate:inbox:{worker}"


class JobQueue(Shelf):
    """The store of jobs on one server: what :class:`~scheduler.shelf.Shelf` reads, and how jobs move.

    Args:
        connection: a client that answers bytes.
        result_ttl: seconds that an ended job is kept.
    """

    def __init__(self, connection: Redis, result_ttl: int) -> None:
        super().__init__(connection)
        self.swap = Swapper(connection)
        self._ttl = result_ttl

    @property
    def result_ttl(self) -> int:
        """Seconds that an ended job is kept."""
        return self._ttl

    def rq_job(self, rec: JobRecord) -> Job:
        """RQ's job for a record, to write with; it reads nothing."""
        return rq_job(self.connection, rec, self._ttl)

    def swap_and_look(
        self, swap: Swap, rec: JobRecord, reads: Sequence[tuple[Word, ...]] = ()
    ) -> tuple[int, Standing, list[Any]]:
        """A swap's answer, where a job stands behind it, and the replies to more reads; one round trip."""
        standing = standing_commands(rec, self._lists)
        done, replies = self.swap.and_read(swap, (*standing, *reads))
        return done, read_standing(rec, replies[: len(standing)]), replies[len(standing) :]

    def submit(self, rec: JobRecord, bounds: Bounds) -> bool:
        """Put a new job at its queue's end; False where a bound is reached."""
        return self.swap(self.submit_swap(rec, bounds)) == [1]

    def submit_swap(self, rec: JobRecord, bounds: Bounds) -> Swap:
        """The swap that puts a new job at its queue's end, within bounds."""
        job = Job.create(
            JOB_FUNCTION,
            kwargs=rec.envelope,
            connection=self.connection,
            id=rec.id,
            serializer=JSONSerializer,
            timeout=NO_TIMEOUT,
            result_ttl=self._ttl,
            failure_ttl=self._ttl,
            description=f"{rec.meta.model} ({rec.meta.priority})",
            meta=rec.meta.fields(),
        )
        job.created_at = datetime.fromtimestamp(rec.created_at, UTC)
        job.retries_left, job.enqueue_at_front_on_retry = _RQ_RETRIES, True
        queue = self._queues[rec.meta.priority]
        first = LoggedEvent(1, Kind.QUEUED, {"at": rec.created_at})
        return Swap(
            guards=bounds.guards(Slip.of(rec)),
            commands=(
                *record(self.connection, lambda pipe: queue.enqueue_job(job, pipeline=pipe)),
                ("ZADD", JOBS_KEY, 0, rec.id),
                *enter_commands(rec),
                *promise_commands(job.key, rec.webhook),
                append_command(rec.id, first),
                publish_command([(rec.id, first)]),
            ),
        )

    def claim(
        self, rec: JobRecord, meta: Meta, lease: Lease, passed: Sequence[str], event: LoggedEvent
    ) -> bool:
        """Take a waiting job for a worker, and charge its owner for it once; False where another was first."""
        advance(rec.state, Event.CLAIM)
        job = self.rq_job(rec)
        now, slip = datetime.now(UTC), Slip.of(rec)
        charged = not rec.meta.attempt
        charge = lanes.charge_commands(slip, rec.turn or Turn(rec.id), now.timestamp()) if charged else ()
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
            guards=self._taken(rec),
            commands=(
                ("HSET", job.key, *_flat(fields)),
                ("PERSIST", job.key),
                *record(self.connection, lambda pipe: start_execution(execution, job, pipe)),
                *leave_commands(rec.id, slip),
                *charge,
                append_command(rec.id, event),
                publish_command([(rec.id, event)]),
            ),
        )
        held = Guard(("HGET", job.key, LEASE_FIELD), str(lease))
        more = [pass_swap(other, held) for other in passed]
        if charged:
            more.append(lanes.forgive_swap(slip, held))
        won = self.swap(swap, *more, lanes.tidy_swap(slip))[0]
        if won == -len(swap.guards):
            self._drop_from_lane(rec)
        return won == 1

    def _drop_from_lane(self, rec: JobRecord) -> None:
        """Take a job out of its lane that waits in no list, so that it stands in nobody's way."""
        slip = Slip.of(rec)
        nowhere = Guard(("LPOS", self._queues[rec.meta.priority].key, rec.id), "")
        self.swap(lanes.drop_swap(rec.id, slip, nowhere), lanes.tidy_swap(slip))

    def requeue(self, rec: JobRecord, meta: Meta, event: LoggedEvent, *, front: bool = True) -> Swap:
        """The swap that puts a held job back to wait."""
        advance(rec.state, Event.REQUEUE)
        job = self.rq_job(rec)
        waiting = replace(rec, meta=meta)
        return Swap(
            guards=self._held(rec),
            commands=(
                ("HSET", job.key, "status", JobStatus.QUEUED.value, "meta", meta.dump(), "worker_name", ""),
                ("HDEL", job.key, LEASE_FIELD),
                *record(self.connection, lambda pipe: end_execution(rec, job, pipe)),
                ("LPUSH" if front else "RPUSH", self._queues[rec.meta.priority].key, rec.id),
                *enter_commands(waiting, front=front),
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
        guards = self._held(rec)
        leave: tuple[tuple[Word, ...], ...] = ()
        if rec.state is State.QUEUED:
            guards = self._taken(rec)
            leave = tuple(leave_commands(rec.id, Slip.of(rec)))
        return Swap(
            guards=guards,
            commands=(
                ("HSET", job.key, "meta", ended.meta.dump(), "ended_at", utcformat(datetime.now(UTC))),
                ("HDEL", job.key, LEASE_FIELD, CANCEL_FIELD),
                *record(self.connection, lambda pipe: end_job(rec, outcome, job, self._ttl, pipe)),
                *leave,
                *end_commands(job.key, rec.webhook, rec.id, outcome.state.value, now_seconds),
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
        return Swap(self._held(rec), tuple(commands))

    def publish(self, news: Sequence[tuple[str, LoggedEvent]], written: int = 0) -> Swap:
        """The swap that tells readers of a step's events, where the swaps that write them were done: it follows them.

        Args:
            news: the jobs' events.
            written: how many swaps write them.
        """
        return Swap((Guard((), written, "done"),), (publish_command(news),))

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
                *leave_commands(rec.id, Slip.of(rec)),
                *enter_commands(rec, front=True),
            ),
        )
        return self.swap(swap) == [1]

    def take_back(self, rec: JobRecord) -> bool:
        """Take a job given back out of its list, for RQ to put it there again; False where others were first."""
        return self.swap(Swap(self._taken(rec))) == [1]

    def ask_cancel(self, rec: JobRecord, also: Swap = _NOTHING) -> bool:
        """Mark a held job as unwanted and tell its worker; False where it is not held so any more.

        Args:
            rec: the job.
            also: what must be true and happen with it.
        """
        worker = Lease.parse(rec.lease or "?/0").worker
        swap = Swap(
            guards=self._held(rec),
            commands=(
                ("HSET", Job.key_for(rec.id), CANCEL_FIELD, 1),
                ("PUBLISH", inbox_channel(worker), rec.id),
            ),
        )
        return self.swap(swap.beside(also)) == [1]

    def _held(self, rec: JobRecord) -> tuple[Guard, ...]:
        """That the attempt holds its job; RQ's own recovery takes jobs away by their status alone."""
        both = f"{rec.lease or '?'}\n{JobStatus.STARTED.value}"
        return (Guard(("HMGET", Job.key_for(rec.id), LEASE_FIELD, "status"), both, "words"),)

    def _taken(self, rec: JobRecord) -> tuple[Guard, ...]:
        """That a job waits as it was read, with no attempt since; and it is taken out of its list."""
        key = Job.key_for(rec.id)
        return (
            Guard(("HGET", key, "status"), JobStatus.QUEUED.value),
            Guard(("HGET", key, "meta"), rec.stored_meta or rec.meta.dump()),
            Guard(("LREM", self._queues[rec.meta.priority].key, -1 if rec.from_end else 1, rec.id), 1),
        )


_ENDINGS: Final = {
    State.COMPLETED: Event.COMPLETE,
    State.INCOMPLETE: Event.RUN_OUT,
    State.FAILED: Event.FAIL,
    State.CANCELLED: Event.CANCEL,
}


def _flat(fields: dict[str, Word]) -> list[Word]:
    return [word for pair in fields.items() for word in pair]
