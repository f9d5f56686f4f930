"""What RQ's queues and hashes hold, read: jobs, heads of queues, places in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from scheduler.errors import ClientError
from scheduler.job import PRIORITIES, State
from scheduler.record import JobRecord, read_record
from scheduler.rq_records import read_outcome
from scheduler.waiting import overdue, passes, waiting

_HEAD_PAGES: Final = 16  # of jobs that a worker cannot take, before those that it can


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

    def heads(
        self, names: Iterable[str], count: int, wanted: Callable[[JobRecord], bool] = lambda _: True
    ) -> list[list[tuple[JobRecord, int]]]:
        """The first ``count`` waiting jobs of each queue that are wanted, with how often each was passed.

        Looks further while it finds others, as far as a bound.
        """
        return [self._head(self.rq_queue(name).key, count, wanted) for name in names]

    def _head(self, key: str, count: int, wanted: Callable[[JobRecord], bool]) -> list[tuple[JobRecord, int]]:
        found: list[JobRecord] = []
        for page in range(_HEAD_PAGES):
            entries: Any = self.connection.lrange(key, page * count, (page + 1) * count - 1)
            records = (
                self.fetch_many([entry.decode(errors="replace") for entry in entries]) if entries else []
            )
            found += [rec for rec in records if rec.state is State.QUEUED and wanted(rec)]
            if len(entries) < count or len(found) >= count:
                break
        passed = passes(self.connection, [rec.id for rec in found]) if found else {}
        return [(rec, passed[rec.id]) for rec in found[:count]]

    def waiting(self) -> tuple[int, int]:
        """How many jobs wait, and their tokens of work."""
        return waiting(self.connection)

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
