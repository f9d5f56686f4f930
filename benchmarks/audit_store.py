"""The audit's rules about what the server still has, once every job has ended and every process is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from rq.job import Job
from rq.results import Result

from benchmarks.findings import Column, Finding
from benchmarks.key_leaks import leaks
from scheduler.errors import ClientError
from scheduler.events import TERMINAL_KINDS, Kind, LoggedEvent, events_key, parse_events
from scheduler.fleet import WORKERS_KEY
from scheduler.job import PRIORITIES
from scheduler.queue import JOBS_KEY
from scheduler.record import read_heading
from scheduler.rq_records import read_outcome

LEASES: Final = ("tidegate:worker:*", "tidegate:share:*", "tidegate:host:*")
"""Keys that live as long as a worker renews them."""

_REGISTRY_OF: Final = {
    b"finished": "finished",
    b"failed": "failed",
    b"stopped": "failed",
    b"canceled": "canceled",
}
"""The registry in which RQ keeps jobs of a status."""

_ENDED_REGISTRIES: Final = ("finished", "failed", "canceled")
_RQ_WORKER_SECONDS: Final = 420 + 60
"""For how long RQ remembers a worker that fell silent (its ``worker_ttl``, and a minute)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A job as the server keeps it; what is not there is empty."""

    job_id: str
    state: str = ""
    status: bytes = b""
    """RQ's word for it."""
    priority: str = ""
    events: Sequence[LoggedEvent] = ()
    unreadable: int = 0
    results: Sequence[Mapping[str, Any]] = ()
    """Every outcome that is kept, newest first."""
    submission: str = ""
    """The key of the submission that made it, where its client put that into the job's metadata by this name."""

    @property
    def asks_for_another(self) -> bool:
        """Whether it failed so that its client was to try again: the same key then makes another job."""
        error = (self.results[0].get("error") if self.results else None) or {}
        return bool(error.get("retryable"))

    @property
    def ends(self) -> list[LoggedEvent]:
        """Its terminal events."""
        return [event for event in self.events if event.kind in TERMINAL_KINDS]

    @property
    def text(self) -> str:
        """What its log's deltas make."""
        return "".join(event.data.get("text", "") for event in self.events if event.kind is Kind.DELTA)


def read_stored(connection: Redis, job_ids: Sequence[str]) -> dict[str, Stored]:
    """Jobs as the server keeps them, in one round trip."""
    pipeline = connection.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.hgetall(Job.key_for(job_id))
        pipeline.xrange(events_key(job_id))
        pipeline.xrevrange(Result.get_key(job_id))
    replies = iter(pipeline.execute() if job_ids else ())
    return {job_id: _stored(job_id, next(replies), next(replies), next(replies)) for job_id in job_ids}


def _stored(job_id: str, fields: dict[bytes, bytes], entries: Any, kept: Any) -> Stored:
    outcomes = [read_outcome([each]) for each in kept]
    try:
        rec = read_heading(job_id, fields)
    except ClientError:
        return Stored(job_id)
    events: list[LoggedEvent] = []
    unreadable = 0
    for entry in entries:
        try:
            events += parse_events([entry])
        except (ValueError, LookupError):
            unreadable += 1
    return Stored(
        job_id,
        rec.state.value,
        fields.get(b"status", b""),
        rec.meta.priority,
        events,
        unreadable,
        [
            {} if each is None else {"state": each.state.value, "result": each.result, "error": each.error}
            for each in outcomes
        ],
        (rec.meta.metadata or {}).get("submission", ""),
    )


Rule = Callable[[Redis, Mapping[str, Stored]], Iterator[tuple[str, str]]]


def store_findings(connection: Redis, stored: Mapping[str, Stored]) -> list[Finding]:
    """What is wrong on the server beside single jobs' stories: each rule answers subjects and words."""
    found = [
        Finding(Column.DOUBLED, subject, words)
        for subject, words in jobs_nobody_was_told_of(connection, stored)
    ]
    return found + [
        Finding(Column.LEAKED, subject, words)
        for rule in LEAKED
        for subject, words in rule(connection, stored)
    ]


def jobs_nobody_was_told_of(connection: Redis, stored: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """Jobs on the server that no client knows: a submission that came twice made two.

    A failure that a retry can help makes room for another under the same key, which a request makes as well that its
    client gave up, and that an API that was stopped reads late.
    """
    unknown = [job_id for job_id in _strings(connection.zrange(JOBS_KEY, 0, -1)) if job_id not in stored]
    others = read_stored(connection, unknown)
    again = {kept.submission for kept in (*stored.values(), *others.values()) if kept.asks_for_another}
    for job_id, kept in others.items():
        if not kept.submission or kept.submission not in again:
            yield job_id, f"no client was told of this job, which is {kept.state or 'gone'}"


def leases_of_the_dead(connection: Redis, _: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """A worker's lease, or its share of its host's memory, that is still held."""
    for pattern in LEASES:
        for key in _strings(connection.scan_iter(pattern, count=1000)):
            yield key, f"a lease is held; it lapses in {connection.pttl(key)} ms"
    for name in _strings(connection.smembers(WORKERS_KEY)):
        yield name, "a worker is on the list of the living"


def reservations_left(connection: Redis, stored: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """A job that ended and has a lease still, memory reserved, or a cancellation that nobody heard."""
    for job_id in stored:
        fields: Any = connection.hmget(Job.key_for(job_id), "lease", "cancel_requested", "meta")
        lease, cancel, meta = fields
        if lease:
            yield job_id, f"it is held by {lease.decode()}"
        if cancel:
            yield job_id, "its cancellation is still asked for"
        if meta and (reserved := json.loads(meta).get("reserved_bytes")):
            yield job_id, f"{reserved} bytes are reserved for it"


def keys_without_an_owner(connection: Redis, _: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """Keys that live for ever, and entries of the indexes of what waits (:mod:`benchmarks.key_leaks`)."""
    for words in leaks(connection):
        yield words, "it has no owner, and does not lapse"


def waiting_entries(connection: Redis, stored: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """RQ's queues, and the lists between them and a worker, must be empty; so must the started registries."""
    for name in PRIORITIES:
        for key in (f"rq:queue:{name}", f"rq:queue:{name}:intermediate"):
            for waiting in _strings(connection.lrange(key, 0, -1)):
                yield f"{key} {waiting}", f"the job is {_state(stored, waiting)}"
        for entry in _strings(connection.zrange(f"rq:wip:{name}", 0, -1)):
            yield f"rq:wip:{name} {entry}", f"the job is {_state(stored, entry.partition(':')[0])}"


def executions_left(connection: Redis, _: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """RQ's records of attempts that are over, by job and by worker."""
    for pattern in ("rq:execution:*", "rq:executions:*", "rq:worker:*:executions"):
        for key in _strings(connection.scan_iter(pattern, count=1000)):
            yield key, f"an attempt's record is left; it lapses in {connection.ttl(key)} s"


def registries_disagree(connection: Redis, stored: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """Each ended job is in the registry of its status and in no other, once; none is there that is gone."""
    found: dict[str, list[str]] = {job_id: [] for job_id in stored}
    for registry in _ENDED_REGISTRIES:
        for name in PRIORITIES:
            for job_id in _strings(connection.zrange(f"rq:{registry}:{name}", 0, -1)):
                found.setdefault(job_id, []).append(f"{registry}:{name}")
    for job_id, places in found.items():
        kept = stored.get(job_id)
        if kept is None or not kept.status:
            if places and not connection.exists(Job.key_for(job_id)):
                yield job_id, f"RQ keeps it as {', '.join(places)}, and the job is gone"
            continue
        kind = _REGISTRY_OF.get(kept.status)
        should = [f"{kind}:{kept.priority}"] if kind else []
        if places != should:
            yield job_id, f"RQ's status is {kept.status.decode()}, and its registries are {places}"


def workers_registered(connection: Redis, _: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """RQ remembers a worker that was killed for some minutes, and not for ever; one that left it forgets at once."""
    lists = _strings(connection.scan_iter("rq:workers*", count=1000))
    for name in dict.fromkeys(name for key in lists for name in _strings(connection.smembers(key))):
        seconds: Any = connection.ttl(name)
        if seconds > _RQ_WORKER_SECONDS or seconds == -1:
            yield name, f"RQ remembers this worker for {seconds} s"
        if connection.hexists(name, "death"):
            yield name, "RQ lists this worker, which left"


def locks_held(connection: Redis, _: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """A lock that does not lapse by itself; its holder is gone."""
    for pattern in ("rq:clean_registries:*", "rq:scheduler-lock:*", "tidegate:batches:feeder"):
        for key in _strings(connection.scan_iter(pattern, count=1000)):
            if connection.ttl(key) == -1:
                yield key, "a lock is held, and does not lapse"


LEAKED: Final[Sequence[Rule]] = (
    leases_of_the_dead,
    reservations_left,
    keys_without_an_owner,
    waiting_entries,
    executions_left,
    registries_disagree,
    workers_registered,
    locks_held,
)


def _state(stored: Mapping[str, Stored], job_id: str) -> str:
    return stored[job_id].state or "gone" if job_id in stored else "unknown"


def _strings(entries: Any) -> Iterator[str]:
    return (entry.decode(errors="replace") for entry in entries)
