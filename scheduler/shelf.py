"""What RQ's queues and hashes hold, read: jobs, heads of queues, places in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from scheduler import lanes
from scheduler.depth import Depth, read_depth
from scheduler.envelope import is_ours, read_envelope
from scheduler.errors import ClientError
from scheduler.heads import Found, Heads, Wanted
from scheduler.job import PRIORITIES, State
from scheduler.record import HEADING_FIELDS, JobRecord, read_heading, read_record
from scheduler.round_trip import replies_of, round_trip
from scheduler.rq_records import read_outcome
from scheduler.slip import counted
from scheduler.standing import Standing, read_standing, standing_commands
from scheduler.waiting import PASSES_KEY, overdue, waiting, waiting_by_class

_PAGE: Final = 256
_NO_VALUES: Final = (None,) * len(HEADING_FIELDS)

_ENVELOPES_KNOWN: Final = 1 << 14
"""Jobs of which is remembered whether a worker can run them: a request never changes."""


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
        self._lists = {name: queue.key for name, queue in self._queues.items()}
        self._runs = OrderedDict[str, bool]()
        self._heads = Heads(connection, self._wanted, lambda name: self.rq_queue(name).key)

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
        replies = replies_of(pipeline)
        records = []
        for job_id, fields, results in zip(job_ids, replies[::2], replies[1::2], strict=True):
            try:
                records.append(read_record(job_id, fields or {}, read_outcome(results or ())))
            except ClientError:
                if not missing_ok:
                    raise
        return records

    def headings(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """Several jobs without requests and outcomes; those that are gone, or not ours, are left out."""
        pipeline = self.connection.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hmget(Job.key_for(job_id).encode(errors="surrogateescape"), HEADING_FIELDS)
        records = []
        for job_id, values in zip(job_ids, replies_of(pipeline) if job_ids else (), strict=True):
            rec = _heading(job_id, values or _NO_VALUES)
            if rec is not None:
                records.append(rec)
        return records

    def with_outcomes(self, records: Sequence[JobRecord]) -> list[JobRecord]:
        """The same jobs, each with how it ended, if it did."""
        pipeline = self.connection.pipeline(transaction=False)
        for rec in records:
            pipeline.xrevrange(Result.get_key(rec.id), count=2)
        results = replies_of(pipeline) if records else ()
        return [
            replace(rec, outcome=read_outcome(each or ())) for rec, each in zip(records, results, strict=True)
        ]

    def envelope(self, job_id: str) -> dict[str, Any]:
        """A job's request, as it is stored.

        Raises:
            ClientError: ``not_found``.
        """
        data: Any = self.connection.hget(Job.key_for(job_id), "data")
        return read_envelope(job_id, data)

    def runnable(self, job_id: str) -> bool:
        """Whether a job's request is one that workers of this version run; each is read once."""
        if job_id not in self._runs:
            self._keep_request(job_id, self.connection.hget(Job.key_for(job_id), "data"))
        return self._runs[job_id]

    def _keep_request(self, job_id: str, data: Any) -> None:
        """Find out of a job whether it can be run."""
        if len(self._runs) >= _ENVELOPES_KNOWN:
            self._runs.popitem(last=False)  # the oldest
        try:
            self._runs[job_id] = is_ours(read_envelope(job_id, data))
        except ClientError:
            self._runs[job_id] = False

    def heads(self, names: Iterable[str], count: int, wanted: Wanted = lambda _: True) -> list[list[Found]]:
        """The first ``count`` waiting jobs of each queue that are wanted, with how often each was passed.

        They come in the order of :func:`~scheduler.shares.fair_order`, which is the list's where one owner waits;
        without their requests, each of which was looked at once. Beside the lists' fronts, the lanes of the
        other owners are read, in a number of round trips that does not depend on the queues' lengths.
        A look reads a bounded number of jobs: the first page, then on from where the looks before it, which
        found nothing, ended. So it passes over nothing that is wanted, and every job has its turn.
        """
        return self._heads.look(names, count, wanted)

    def any_waits(self, names: Iterable[str], wanted: Wanted) -> bool:
        """Whether a job of these queues is wanted, however far back it waits."""
        for key in (self.rq_queue(name).key for name in names):
            # From the end: what is taken out meanwhile moves only what was looked at.
            for start in reversed(range(0, self.connection.llen(key), _PAGE)):
                entries: Any = self.connection.lrange(key, start, start + _PAGE - 1)
                if self._wanted([entry.decode(errors="replace") for entry in entries], wanted):
                    return True
        return False

    def _wanted(self, job_ids: Sequence[str], wanted: Wanted) -> list[Found]:
        """Of several jobs those that wait and are wanted, with how often each was passed, in one round trip."""
        if not job_ids:
            return []
        pipeline = self.connection.pipeline(transaction=False)
        pipeline.hmget(PASSES_KEY, list(job_ids))
        new = {job_id for job_id in job_ids if job_id not in self._runs}
        for job_id in job_ids:
            key = Job.key_for(job_id)
            pipeline.hmget(key, HEADING_FIELDS)
            pipeline.xrevrange(Result.get_key(job_id), count=2)
            if job_id in new:
                pipeline.hget(key, "data")
        counts, *rest = replies_of(pipeline)
        replies, records = iter(rest), list[Found]()
        for job_id, passes in zip(job_ids, counts or [None] * len(job_ids), strict=True):
            values, results = next(replies), next(replies)
            data = next(replies) if job_id in new else None
            rec = _heading(job_id, values or _NO_VALUES, results or ())
            if job_id in new and (rec is not None or data is not None):
                self._keep_request(job_id, data)
            if rec is not None and rec.state is State.QUEUED:
                records.append((rec, counted(passes)))
        return [(rec, passes) for rec, passes in records if wanted(rec) and self.runnable(rec.id)]

    def waiting(self) -> tuple[int, int]:
        """How many jobs wait, and their tokens of work."""
        return waiting(self.connection)

    def waiting_by_class(self) -> dict[str, tuple[int, int]]:
        """How many jobs of each class wait, and their tokens of work."""
        return waiting_by_class(self.connection, self._lists)

    def depth(self) -> Depth:
        """How deep the queue is, and how many webhooks wait beside it; one round trip."""
        return read_depth(self.connection, self._lists)

    def owners_by_class(self) -> dict[str, int]:
        """How many owners wait in each class; one round trip."""
        pipeline = self.connection.pipeline(transaction=False)
        for name in PRIORITIES:
            pipeline.zcard(lanes.owners_key(name))
        return dict(zip(PRIORITIES, pipeline.execute(), strict=True))

    def owned(self, owner: str) -> tuple[int, int]:
        """How many jobs of an owner wait, and their tokens of work."""
        return lanes.owned(self.connection, owner)

    def standing(self, rec: JobRecord) -> Standing:
        """Where a job stands; one round trip."""
        return read_standing(rec, round_trip(self.connection, standing_commands(rec, self._lists)))

    def standings(self, records: Sequence[JobRecord]) -> dict[str, Standing]:
        """Where several jobs stand; one round trip, in which what they ask alike is asked once."""
        asked = {rec.id: standing_commands(rec, self._lists) for rec in records}
        commands = list(dict.fromkeys(command for each in asked.values() for command in each))
        replies = dict(zip(commands, round_trip(self.connection, commands) if commands else (), strict=True))
        return {rec.id: read_standing(rec, [replies[each] for each in asked[rec.id]]) for rec in records}

    def overdue(self, now_seconds: float) -> list[str]:
        """Waiting jobs whose deadline has passed."""
        return overdue(self.connection, now_seconds)

    def rq_queue(self, name: str) -> Queue:
        """RQ's queue of a class, or of another name."""
        return self._queues.get(name) or Queue(name, connection=self.connection, serializer=JSONSerializer)


def _heading(job_id: str, values: Sequence[bytes | None], results: Any = ()) -> JobRecord | None:
    """A job without its request; None where it is gone, or not ours."""
    named = zip(HEADING_FIELDS, values, strict=True)
    fields = {name.encode(): value for name, value in named if value is not None}
    with suppress(ClientError):
        return read_heading(job_id, fields, read_outcome(results))
    return None
