"""The verbs of a worker: claim, go on, end, put back; each under the lease of its attempt.

A worker that lost a job (its lease lapsed, another took over) learns it from the answer to its next
write, which changed nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from scheduler.batch_account import Holder
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent, events_key, parse_events, read_events
from scheduler.fleet import is_alive
from scheduler.histories import completion_of, completion_swap
from scheduler.job import Lease, State
from scheduler.queue import JobQueue
from scheduler.record import CANCEL_FIELD, JobRecord, Meta, Outcome, is_ours, read_envelope
from scheduler.swap import Swap


@dataclass(slots=True)
class Held:
    """A job that this worker holds: its record, its log's newest number, the tokens it has so far."""

    rec: JobRecord
    number: int
    tokens: list[int] = field(default_factory=list)
    claimed_at: float = 0.0
    resumed_tokens: int = 0
    """Of them, made by attempts before this one: the engine computes them anew, as a part of the prompt."""
    cached_tokens: int = 0
    """Of prompt and answer, as the engine last told while it computed the prompt."""
    promised_bytes: int = 0
    """Its reservation at its largest."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    told: tuple[object, ...] = field(default=(), compare=False, repr=False)
    """What the worker's account was last told of its progress by."""

    @property
    def lease(self) -> Lease:
        """The attempt."""
        return Lease.parse(self.rec.lease or "?/0")

    @property
    def holder(self) -> Holder:
        """Its name in the ledger."""
        return Holder(self.rec.id, self.lease.attempt)

    @property
    def computed_tokens(self) -> int:
        """Of prompt and answer, what the engine has computed in this attempt."""
        decodes = len(self.tokens) > self.resumed_tokens
        return self.rec.meta.prompt_tokens + len(self.tokens) if decodes else self.cached_tokens

    def event(self, kind: Kind, data: dict[str, Any]) -> LoggedEvent:
        """The next event of its log."""
        self.number += 1
        return LoggedEvent(self.number, kind, data)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step brought one job: text for its stream, and perhaps its end."""

    held: Held
    delta: dict[str, Any] | None = None
    outcome: Outcome | None = None
    meta: Meta | None = None


@dataclass(frozen=True, slots=True)
class Before:
    """What a worker reads before it takes a job, in one round trip.

    ``whole`` is the job with its request, None where it waits no more or its request is not one to run; ``logged``
    is its log; ``waiting`` are those that wait still of the jobs that the worker may take next.
    """

    whole: JobRecord | None
    logged: Sequence[LoggedEvent]
    waiting: frozenset[str]


class Holding:
    """What one worker does to jobs.

    Args:
        queue: the store.
        worker: the worker's name.
        clock: Unix seconds.
    """

    def __init__(self, queue: JobQueue, worker: str, clock: Callable[[], float] = time.time) -> None:
        self._queue = queue
        self._worker = worker
        self._clock = clock

    def claim(
        self, rec: JobRecord, meta: Meta, passed: Sequence[str], before: Before | None = None
    ) -> Held | None:
        """Take a waiting job; None where another was first.

        Args:
            rec: the job as it waits.
            meta: its fields for this attempt; the attempt's number and times are filled in here.
            passed: jobs that it passes over.
            before: as :meth:`read_before` had it; read here where it lacks.
        """
        now = self._clock()
        seen = before or self.read_before(rec)
        whole, logged = seen.whole, seen.logged
        if whole is None:
            return None
        lease = Lease(self._worker, _attempts(rec, logged) + 1)
        meta = replace(
            meta, attempt=lease.attempt, started_at=meta.started_at or now, execution_id=uuid.uuid4().hex
        )
        number = logged[-1].number if logged else 1
        held = Held(
            replace(whole, meta=meta, state=State.IN_PROGRESS, lease=str(lease)), number, claimed_at=now
        )
        held.tokens = [token for event in logged for token in event.data.get("tokens", ())]
        held.resumed_tokens = len(held.tokens)
        held.logprobs = [entry for event in logged for entry in event.data.get("logprobs", ())]
        event = held.event(Kind.STARTED, {"attempt": lease.attempt, "worker": self._worker})
        try:
            won = self._queue.claim(rec, meta, lease, passed, event)
        except StoreUnavailable:
            won = self._queue.fetch(rec.id).lease == str(lease)
        return held if won else None

    def read_before(self, rec: JobRecord, others: Sequence[str] = ()) -> Before:
        """A job as it is now, before it is taken, and which of some others wait; in one round trip.

        Where many workers want the same job, most of them learn here that they are late, and what is left.
        """
        pipeline = self._queue.connection.pipeline(transaction=False)
        pipeline.hmget(Job.key_for(rec.id), "status", "data")
        pipeline.xrange(events_key(rec.id))
        for job_id in others:
            pipeline.hget(Job.key_for(job_id), "status")
        (status, data), entries, *statuses = pipeline.execute()
        queued = JobStatus.QUEUED.value.encode()
        waiting = frozenset(job_id for job_id, each in zip(others, statuses, strict=True) if each == queued)
        whole = None
        if status == queued:
            with suppress(ClientError):
                envelope = rec.envelope or read_envelope(rec.id, data)
                whole = replace(rec, envelope=envelope) if is_ours(envelope) else None
        return Before(whole, parse_events(entries) if whole else [], waiting)

    def write(self, progress: Sequence[Progress]) -> list[Held]:
        """Write a step of the whole batch in one round trip.

        Returns:
            The jobs among them that this worker does not hold any more.

        Raises:
            StoreUnavailable: unknown what was written; write the same again.
        """
        return self.send(self.prepare(progress), [item.held for item in progress])

    def prepare(self, progress: Sequence[Progress]) -> list[Swap]:
        """Number a step's events and make its swaps; send the same ones again where an answer is lost."""
        swaps: list[Swap] = []
        lengths: list[Swap] = []
        news: list[tuple[str, LoggedEvent]] = []
        for item in progress:
            held, events = item.held, list[LoggedEvent]()
            if item.meta is not None:
                held.rec = replace(held.rec, meta=item.meta)
            if item.delta is not None:
                held.tokens += item.delta.get("tokens", ())
                held.logprobs += item.delta.get("logprobs", ())
                events.append(held.event(Kind.DELTA, item.delta))
            if item.outcome is None:
                swaps.append(self._queue.append(held.rec, events[0] if events else None, item.meta))
            else:
                events.append(held.event(Kind(item.outcome.state.value), {}))
                end = self._queue.finish(held.rec, item.outcome, events, self._clock())
                swaps.append(end)
                if completion := completion_of(item.outcome.result):
                    lengths.append(completion_swap(held.rec.meta.model, completion, end.guards))
            news += [(held.rec.id, event) for event in events]
        return [*swaps, self._queue.publish(news, len(swaps)), *lengths]

    def send(self, swaps: Sequence[Swap], held: Sequence[Held]) -> list[Held]:
        """Do what :meth:`prepare` made; the jobs that this worker does not hold any more.

        Readers are told only where all are held: what a worker says of a job that it lost must not reach a
        stream. The others' streams then find the gap. The swaps that count an answer's length go first, as an
        ending job is held until its own; the one that tells goes last, as it asks whether the jobs' were done.
        """
        jobs, tells, lengths = swaps[: len(held)], swaps[len(held) : len(held) + 1], swaps[len(held) + 1 :]
        answers = self._queue.swap(*lengths, *jobs, *tells)[len(lengths) :]
        return [job for job, answer in zip(held, answers, strict=False) if answer != 1]

    def put_back(self, held: Held, reason: str, meta: Meta | None = None) -> Swap:
        """The swap that lets a job wait again, at the front of its queue.

        Args:
            held: the job.
            reason: for its log.
            meta: its fields for the next attempt; as they are where None.
        """
        base = meta or held.rec.meta
        fresh = replace(
            base,
            reserved_bytes=0,
            execution_id=None,
            output_seen=base.output_seen or bool(held.tokens),
            made_tokens=len(held.tokens),
        )
        event = held.event(Kind.REQUEUED, {"reason": reason, "attempt": held.lease.attempt})
        return self._queue.requeue(held.rec, fresh, event)

    def cancel_wanted(self, held: Iterable[Held]) -> list[Held]:
        """Those whose clients asked to cancel them."""
        jobs = list(held)
        pipeline = self._queue.connection.pipeline(transaction=False)
        for job in jobs:
            pipeline.hexists(Job.key_for(job.rec.id), CANCEL_FIELD)
        return [job for job, wanted in zip(jobs, pipeline.execute() if jobs else [], strict=True) if wanted]


def recover(queue: JobQueue, names: Iterable[str], worker: str, held: Container[str]) -> list[str]:
    """Put back the jobs of workers whose leases lapsed, and this worker's that it does not know of.

    Each goes to the front of its queue for its next attempt. Two that recover at once do it once: the
    lease is compared.

    Args:
        queue: the store.
        names: names of RQ's queues.
        worker: who recovers.
        held: the leases that it holds, as text, behind their job's id.

    Returns:
        The jobs put back.
    """
    put_back: list[str] = []
    connection = queue.connection
    for name in names:
        registry = StartedJobRegistry(name, connection, serializer=JSONSerializer)
        entries: Any = connection.zrange(registry.key, 0, -1)
        started = [entry.decode().split(":")[0] for entry in entries]
        for rec in queue.headings(started):
            if rec.lease is None or rec.state is not State.IN_PROGRESS:
                continue
            owner = Lease.parse(rec.lease).worker
            known = f"{rec.id} {rec.lease}" in held if owner == worker else is_alive(connection, owner)
            if known:
                continue
            logged = read_events(connection, rec.id)
            number = logged[-1].number + 1 if logged else 1
            seen = rec.meta.output_seen or any(event.kind is Kind.DELTA for event in logged)
            meta = replace(
                rec.meta,
                reserved_bytes=0,
                output_seen=seen,
                attempt=_attempts(rec, logged),
                made_tokens=sum(len(event.data.get("tokens", ())) for event in logged),
            )
            event = LoggedEvent(number, Kind.REQUEUED, {"reason": "worker_lost", "attempt": meta.attempt})
            if queue.swap(queue.requeue(rec, meta, event)) == [1]:
                put_back.append(rec.id)
    return put_back


def _attempts(rec: JobRecord, logged: Iterable[LoggedEvent]) -> int:
    """How often a job was claimed.

    RQ's plain workers write back the fields that they read before the claim, as after a killed work
    horse; the lease then tells, or the log where the job was put back since.
    """
    started: list[int] = [event.data.get("attempt", 0) for event in logged if event.kind is Kind.STARTED]
    return max(rec.meta.attempt, Lease.parse(rec.lease).attempt if rec.lease else 0, *started)
