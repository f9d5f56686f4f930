"""What RQ's queues and hashes hold, read: jobs, heads of queues, places in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from scheduler import lanes
from scheduler.errors import ClientError
from scheduler.job import PRIORITIES, State
from scheduler.record import HEADING_FIELDS, JobRecord, is_ours, read_envelope, read_heading, read_record
from scheduler.rq_records import read_outcome
from scheduler.shares import Lane, Waiter, fair_order
from scheduler.waiting import overdue, passes, waiting, waiting_by_class

_HEAD_PAGES: Final = 16
"""Pages that one look at a queue reads at most."""

_PAGE: Final = 256

_ENVELOPES_KNOWN: Final = 1 << 14
"""Jobs of which is remembered whether a worker can run them: a request never changes."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A part of a list: its entries, and the jobs wanted among them."""

    ids: list[str]
    wanted: list[JobRecord]


class Shelf:
    """The jobs on one server, to read.

    Args:
        connection: a client that answers bytes.
    """

    def __init__(self, connection: Redis) -> None:
        self.connection = connection
        self._queues = {
            name: Queue(name, connection=connection, serializer=JSONSerializer) for name in PRIORITIES
        }
        self._starts: dict[str, int] = {}
        self.runnable = lru_cache(_ENVELOPES_KNOWN)(self._runnable)

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
                records.append(read_record(job_id, fields, read_outcome(results)))
            except ClientError:
                if not missing_ok:
                    raise
        return records

    def headings(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """Several jobs without requests and outcomes; those that are gone, or not ours, are left out."""
        pipeline = self.connection.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hmget(Job.key_for(job_id), HEADING_FIELDS)
        records = []
        for job_id, values in zip(job_ids, pipeline.execute() if job_ids else (), strict=True):
            named = zip(HEADING_FIELDS, values, strict=True)
            fields = {name.encode(): value for name, value in named if value is not None}
            with suppress(ClientError):
                records.append(read_heading(job_id, fields))
        return records

    def with_outcomes(self, records: Sequence[JobRecord]) -> list[JobRecord]:
        """The same jobs, each with how it ended, if it did."""
        pipeline = self.connection.pipeline(transaction=False)
        for rec in records:
            pipeline.xrevrange(Result.get_key(rec.id), count=2)
        results = pipeline.execute() if records else ()
        return [replace(rec, outcome=read_outcome(each)) for rec, each in zip(records, results, strict=True)]

    def envelope(self, job_id: str) -> dict[str, Any]:
        """A job's request, as it is stored.

        Raises:
            ClientError: ``not_found``.
        """
        data: Any = self.connection.hget(Job.key_for(job_id), "data")
        return read_envelope(job_id, data)

    def _runnable(self, job_id: str) -> bool:
        """Whether a job's request is one that workers of this version run."""
        try:
            return is_ours(self.envelope(job_id))
        except ClientError:
            return False

    def heads(
        self, names: Iterable[str], count: int, wanted: Callable[[JobRecord], bool] = lambda _: True
    ) -> list[list[tuple[JobRecord, int]]]:
        """The first ``count`` waiting jobs of each queue that are wanted, with how often each was passed.

        They come in the order of :func:`~scheduler.shares.fair_order`, which is the list's where one owner waits;
        without their requests, each of which was looked at once. Beside the list's front, the lanes of the
        other owners are read, in a number of round trips that does not depend on the queue's length.
        A look reads a bounded number of jobs: the first page, then on from where the looks before it, which
        found nothing, ended. So it passes over nothing that is wanted, and every job has its turn.
        """
        return [self._head(name, count, wanted) for name in names]

    def any_waits(self, names: Iterable[str], wanted: Callable[[JobRecord], bool]) -> bool:
        """Whether a job of these queues is wanted, however far back it waits."""
        for key in (self.rq_queue(name).key for name in names):
            # From the end: what is taken out meanwhile moves only what was looked at.
            for start in reversed(range(0, self.connection.llen(key), _PAGE)):
                if self._page(key, start, _PAGE, wanted).wanted:
                    return True
        return False

    def _head(
        self, name: str, count: int, wanted: Callable[[JobRecord], bool]
    ) -> list[tuple[JobRecord, int]]:
        front, far = self._listed(self.rq_queue(name).key, count, wanted)
        if front is None:
            return []
        seen = lanes.look(self.connection, name, count)
        known = {rec.id for rec in (*front.wanted, *far)}.union(front.ids)
        further = [job_id for jobs in seen.jobs.values() for job_id in jobs if job_id not in known]
        laned = self._wanted(further, wanted)
        if laned and front.wanted:
            laned = self._sought(name, front.wanted[0], laned)
        records = {rec.id: rec for rec in (*front.wanted, *laned, *far) if rec.meta.priority == name}
        if not records:
            return []
        turns = fair_order(_by_owner(records.values(), seen.since), seen.served, count)
        passed = passes(self.connection, [turn.job_id for turn in turns])
        return [(replace(records[turn.job_id], turn=turn), passed[turn.job_id]) for turn in turns]

    def _listed(
        self, key: str, count: int, wanted: Callable[[JobRecord], bool]
    ) -> tuple[_Page | None, list[JobRecord]]:
        """A list's first page, None where nothing waits; and what was found behind it, if that is not enough."""
        front = self._page(key, 0, count, wanted)
        if not front.ids:
            return None, []
        start = self._starts.pop(key, count)
        end = start + (_HEAD_PAGES - 1) * count
        far: list[JobRecord] = []
        page = front
        for at in range(start, end, count):
            if len(page.ids) < count or len(front.wanted) + len(far) >= count:
                break
            page = self._page(key, at, count, wanted)
            far += page.wanted
        else:
            if not front.wanted and not far:
                self._starts[key] = end
        return front, far

    def _page(self, key: str, start: int, count: int, wanted: Callable[[JobRecord], bool]) -> _Page:
        """A list's entries from ``start`` on, at most ``count``, and the jobs wanted among them."""
        entries: Any = self.connection.lrange(key, start, start + count - 1)
        ids = [entry.decode(errors="replace") for entry in entries]
        return _Page(ids, self._wanted(ids, wanted))

    def _wanted(self, job_ids: Sequence[str], wanted: Callable[[JobRecord], bool]) -> list[JobRecord]:
        headings = self.headings(job_ids)
        records = self.with_outcomes([rec for rec in headings if rec.state is State.QUEUED])
        return [rec for rec in records if wanted(rec) and self.runnable(rec.id)]

    def _sought(self, name: str, first: JobRecord, records: Sequence[JobRecord]) -> list[JobRecord]:
        """The same jobs of a class, each with the end of its list that it seems nearer to, by their times."""
        last: Any = self.connection.lindex(self.rq_queue(name).key, -1)
        tail = self.headings([last.decode(errors="replace")]) if last else []
        middle = (first.created_at + tail[0].created_at) / 2 if tail else math.inf
        return [replace(rec, from_end=rec.created_at > middle) for rec in records]

    def waiting(self) -> tuple[int, int]:
        """How many jobs wait, and their tokens of work."""
        return waiting(self.connection)

    def waiting_by_class(self) -> dict[str, tuple[int, int]]:
        """How many jobs of each class wait, and their tokens of work."""
        return waiting_by_class(self.connection, {name: queue.key for name, queue in self._queues.items()})

    def owned(self, owner: str) -> tuple[int, int]:
        """How many jobs of an owner wait, and their tokens of work."""
        return lanes.owned(self.connection, owner)

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
        return overdue(self.connection, now_seconds)

    def rq_queue(self, name: str) -> Queue:
        """RQ's queue of a class, or of another name."""
        return self._queues.get(name) or Queue(name, connection=self.connection, serializer=JSONSerializer)


def _by_owner(records: Iterable[JobRecord], since: Mapping[str, float]) -> list[Lane]:
    """The jobs as each owner's lane, in the order in which they come."""
    jobs: dict[str, list[JobRecord]] = {}
    for rec in records:
        jobs.setdefault(rec.meta.owner, []).append(rec)
    return [
        Lane(
            owner,
            since.get(owner, own[0].enqueued_at),
            [Waiter(rec.id, rec.meta.work_tokens, paid=rec.meta.attempt > 0) for rec in own],
        )
        for owner, own in jobs.items()
    ]
