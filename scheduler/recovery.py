"""Whose jobs are taken over: those of workers whose leases lapsed wait again, each once, for its next attempt."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from scheduler.events import Kind, LoggedEvent, read_log
from scheduler.fleet import is_alive
from scheduler.job import Lease, State
from scheduler.job_spans import lost
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.record import JobRecord

if TYPE_CHECKING:
    from scheduler.span_sender import SpanSender


def recover(
    queue: JobQueue,
    names: Iterable[str],
    worker: str,
    held: Container[str],
    spans: SpanSender | None = None,
) -> list[str]:
    """Put back the jobs of workers whose leases lapsed, and this worker's that it does not know of.

    Each goes to the front of its queue for its next attempt. Two that recover at once do it once: the
    lease is compared.

    Args:
        queue: the store.
        names: names of RQ's queues.
        worker: who recovers.
        held: the leases that it holds, as text, behind their job's id.
        spans: is told of the attempts that were lost.

    Returns:
        The jobs put back.
    """
    put_back: list[str] = []
    connection = queue.connection
    for name in names:
        registry = StartedJobRegistry(name, connection, serializer=JSONSerializer)
        entries: Any = connection.zrange(registry.key, 0, -1)
        started = [entry.decode(errors="replace").split(":")[0] for entry in entries]
        for rec in queue.headings(started):
            if rec.lease is None or rec.state is not State.IN_PROGRESS:
                continue
            owner = Lease.parse(rec.lease).worker
            known = f"{rec.id} {rec.lease}" in held if owner == worker else is_alive(connection, owner)
            if known:
                continue
            logged, number = read_log(connection, rec.id)
            if number is None:
                continue
            seen = rec.meta.output_seen or any(event.kind is Kind.DELTA for event in logged)
            now = time.time()
            meta = replace(
                rec.meta.moved(now),
                reserved_bytes=0,
                output_seen=seen,
                attempt=attempts_of(rec, logged),
                made_tokens=sum(len(event.data.get("tokens", ())) for event in logged),
            )
            said = {"reason": Reason.WORKER_LOST.value, "attempt": meta.attempt, "at": round(now, 3)}
            event = LoggedEvent(number, Kind.REQUEUED, said)
            if queue.swap(queue.requeue(rec, meta, event)) == [1]:
                put_back.append(rec.id)
                if spans is not None:
                    spans.tell(rec.meta.traceparent, lost(rec, now))
    return put_back


def attempts_of(rec: JobRecord, logged: Iterable[LoggedEvent]) -> int:
    """How often a job was claimed.

    RQ's plain workers write back the fields that they read before the claim, as after a killed work
    horse; the lease then tells, or the log where the job was put back since.
    """
    started: list[int] = [event.data.get("attempt", 0) for event in logged if event.kind is Kind.STARTED]
    return max(rec.meta.attempt, Lease.parse(rec.lease).attempt if rec.lease else 0, *started)
