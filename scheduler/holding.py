"""The verbs of a worker: claim, go on, end, put back; each under the lease of its attempt.

A worker that lost a job (its lease lapsed, another took over) learns it from the answer to its next
write, which changed nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from rq.job import Job, JobStatus

from scheduler.batch_account import Holder
from scheduler.completions import completion_of
from scheduler.envelope import is_ours, read_envelope
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent, events_key, parse_events
from scheduler.histories import completion_swap
from scheduler.job import Lease, State
from scheduler.outcome import Outcome
from scheduler.progress import Far
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.record import CANCEL_FIELD, JobRecord, Meta
from scheduler.recovery import attempts_of
from scheduler.round_trip import replies_of
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
    waited_since: float = 0.0
    """Of a traced job: when the stay in the queue began that ended with the claim."""
    promised_bytes: int = 0
    """Its reservation at its largest."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    decodes_since: tuple[float, int] | None = None
    """When the first tokens of this attempt were written, and how many there were then."""
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

    def ran_seconds(self, now_seconds: float) -> float:
        """How long attempts have had it by now, this one counted."""
        return self.rec.meta.ran_seconds + max(0.0, now_seconds - self.claimed_at)

    def far(self, now_seconds: float) -> Far:
        """How far it is."""
        meta, speed = self.rec.meta, None
        if self.decodes_since is not None and now_seconds > self.decodes_since[0]:
            speed = (len(self.tokens) - self.decodes_since[1]) / (now_seconds - self.decodes_since[0])
        prompt = max(0, meta.prompt_tokens)
        return Far(prompt, min(prompt, self.computed_tokens), len(self.tokens), speed)

    def grow(self, delta: dict[str, Any], meta: Meta | None, now_seconds: float) -> Meta | None:
        """Take what a step made; the fields to write, if any, which then tell when the first token came."""
        self.tokens += (made := delta.get("tokens", ()))
        self.logprobs += delta.get("logprobs", ())
        if made and self.decodes_since is None:
            self.decodes_since = (now_seconds, len(self.tokens))
        if made and self.rec.meta.first_token_at is None and not self.resumed_tokens:  # else nobody noted it
            self.rec = replace(self.rec, meta=replace(self.rec.meta, first_token_at=round(now_seconds, 3)))
        return self.rec.meta if meta is not None else None

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
    fault: ClientError | None = None
    """Why it can never be taken: nobody knows what its log says."""


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
        lease = Lease(self._worker, attempts_of(rec, logged) + 1)
        meta = replace(
            meta.moved(now),
            attempt=lease.attempt,
            started_at=meta.started_at or now,
            execution_id=uuid.uuid4().hex,
        )
        number = logged[-1].number if logged else 1
        held = Held(
            replace(whole, meta=meta, state=State.IN_PROGRESS, lease=str(lease)), number, claimed_at=now
        )
        held.waited_since = rec.created_at if rec.meta.since is None else rec.meta.since
        held.tokens = [token for event in logged for token in event.data.get("tokens", ())]
        held.resumed_tokens = len(held.tokens)
        held.logprobs = [entry for event in logged for entry in event.data.get("logprobs", ())]
        said = {"attempt": lease.attempt, "worker": self._worker, "at": round(now, 3)}
        event = held.event(Kind.STARTED, said)
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
        held, entries, *statuses = replies_of(pipeline)
        status, data = held or (None, None)
        queued = JobStatus.QUEUED.value.encode()
        waiting = frozenset(job_id for job_id, each in zip(others, statuses, strict=True) if each == queued)
        whole = None
        if status == queued:
            with suppress(ClientError):
                envelope = rec.envelope or read_envelope(rec.id, data)
                whole = replace(rec, envelope=envelope) if is_ours(envelope) else None
        if whole is None or entries is None:  # without a log, nobody could be told of it
            return Before(None, [], waiting)
        try:
            return Before(whole, parse_events(entries), waiting)
        except ClientError as error:
            return Before(None, [], waiting, error)

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
        now = self._clock()
        for item in progress:
            held, events, meta = item.held, list[LoggedEvent](), item.meta
            if meta is not None:
                held.rec = replace(held.rec, meta=meta)
            if item.delta is not None:
                meta = held.grow(item.delta, meta, now)
                events.append(held.event(Kind.DELTA, item.delta))
            if item.outcome is None:
                swaps.append(self._queue.append(held.rec, events[0] if events else None, meta))
            else:
                completion = completion_of(item.outcome.result)
                made = completion.tokens if completion else len(held.tokens)
                held.rec = replace(held.rec, meta=replace(held.rec.meta, made_tokens=made))
                events.append(held.event(Kind(item.outcome.state.value), {}))
                end = self._queue.finish(held.rec, item.outcome, events, now)
                swaps.append(end)
                if completion:
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

    def put_back(self, held: Held, reason: Reason, meta: Meta | None = None) -> Swap:
        """The swap that lets a job wait again, at the front of its queue.

        Args:
            held: the job.
            reason: for its log.
            meta: its fields for the next attempt; as they are where None.
        """
        now = self._clock()
        base = (meta or held.rec.meta).moved(now)
        fresh = replace(
            base,
            reserved_bytes=0,
            execution_id=None,
            output_seen=base.output_seen or bool(held.tokens),
            made_tokens=len(held.tokens),
            ran_seconds=held.ran_seconds(now),
        )
        said = {"reason": reason.value, "attempt": held.lease.attempt, "at": round(self._clock(), 3)}
        event = held.event(Kind.REQUEUED, said)
        return self._queue.requeue(held.rec, fresh, event)

    def cancel_wanted(self, held: Iterable[Held]) -> list[Held]:
        """Those whose clients asked to cancel them."""
        jobs = list(held)
        pipeline = self._queue.connection.pipeline(transaction=False)
        for job in jobs:
            pipeline.hexists(Job.key_for(job.rec.id), CANCEL_FIELD)
        return [job for job, wanted in zip(jobs, replies_of(pipeline) if jobs else [], strict=True) if wanted]
