"""Every job in outline, many for little: enough to see of most jobs that a list does not want them.

To read a job takes 60 µs of CPU time, its outline one or two: its id, its ``meta`` as it is stored and RQ's ``status``,
of hundreds of jobs in one command. What is wanted is looked for in the bytes, by :class:`Sieve`; only what may be wanted
is then read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from redis import Redis
from rq.job import Job, JobStatus

from scheduler.job import State
from scheduler.queue import JOBS_KEY
from scheduler.round_trip import round_trip
from scheduler.rq_status import RQ_STATUS

_META, _STATUS = f"{Job.redis_job_namespace_prefix}*->meta", f"{Job.redis_job_namespace_prefix}*->status"
_FIELDS: Final = 3

_SAID_OF_RQ: Final = {status.value.encode() for status in JobStatus}


class Outline(NamedTuple):
    """A job, hardly looked at; bytes that others wrote into its id, and that are no text, stand in it as surrogates."""

    job_id: str
    meta: bytes
    status: bytes


class Slice(NamedTuple):
    """Jobs that follow upon each other, and whether more follow."""

    outlines: list[Outline]
    more: bool


def read_outlines(
    connection: Redis, count: int, low: str | None, high: str | None, *, newest_first: bool
) -> Slice:
    """Jobs between two ids, in the order in which they were made or the other way round; so many at most.

    The sorted set is read from a place that is counted, since SORT_RO knows no ids. Both are one transaction: where jobs came
    or went since the place was counted, it is seen.

    Args:
        connection: a client that answers bytes.
        count: how many at most.
        low, high: ids, neither of which is among them; None: from the first, to the last.
        newest_first: the order.
    """
    start, end = (high, low) if newest_first else (low, high)
    edge = _edge(start)
    counted = ("ZLEXCOUNT", JOBS_KEY, *((edge, b"+") if newest_first else (b"-", edge)))
    order = ("DESC",) if newest_first else ("ASC",)
    at = 0 if start is None else int(round_trip(connection, [counted])[0])
    while True:
        place = ("BY", "nosort", "LIMIT", at, count, "GET", "#", "GET", _META, "GET", _STATUS)
        sorting = ("SORT_RO", JOBS_KEY, *place, *order)  # a server that is full answers it
        commands = [sorting] if start is None else [("MULTI",), counted, sorting, ("EXEC",)]
        reply = round_trip(connection, commands)[-1]
        for each in reply:
            if isinstance(each, Exception):  # within a transaction nobody raises it
                raise each
        before, flat = (0, reply) if start is None else (int(reply[0]), reply[1])
        if before >= at:
            break
        at = before  # jobs before the place went: what came was read too far on
    found = _outlines(flat)
    more, found = len(found) == count, found[before - at :]
    within = [
        each for each in found if end is None or (each.job_id > end if newest_first else each.job_id < end)
    ]
    return Slice(within, more and len(within) == len(found))


def _edge(job_id: str | None) -> bytes:
    return b"-" if job_id is None else f"[{job_id}".encode(errors="surrogateescape")


def _outlines(flat: list[Any]) -> list[Outline]:
    each = zip(*(flat[at::_FIELDS] for at in range(_FIELDS)), strict=True)
    return [
        Outline(job_id.decode(errors="surrogateescape"), meta or b"", status or b"")
        for job_id, meta, status in each
    ]


class Sieve:
    """Lets through every job that is wanted, and hardly another.

    Fields are sought as Python writes them in JSON, wherever they stand in ``meta``; one that it lacks is not judged.

    Args:
        fields: by name, what a field of ``meta`` must be; None: anything.
        entries: names and values that must be among its metadata.
        states: any of these, as clients see them; none: any.
    """

    def __init__(
        self, fields: Mapping[str, str | None], entries: Mapping[str, str], states: Collection[str]
    ) -> None:
        named = {name: wanted for name, wanted in fields.items() if wanted is not None}
        self._fields = [(f'"{name}"'.encode(), _spelled(wanted)) for name, wanted in named.items()]
        self._entries = [_spelled(word) for entry in entries.items() for word in entry]
        self._endings = [f'"{state}"'.encode() for state in states]
        wanted = {State(state) for state in states}
        if State.IN_PROGRESS in wanted:
            wanted.add(State.QUEUED)  # a job that waits again
        self._not = _SAID_OF_RQ - {RQ_STATUS[state].value.encode() for state in wanted}
        if State.QUEUED in wanted:
            self._not &= {RQ_STATUS[state].value.encode() for state in State}  # as an unknown one is read
        if State.CANCELLED in wanted:
            self._not.discard(JobStatus.STOPPED.value.encode())

    def lets(self, outline: Outline) -> bool:
        """Whether a job may be wanted."""
        meta = outline.meta
        return (
            bool(meta)
            and all(name not in meta or any(word in meta for word in words) for name, words in self._fields)
            and all(any(word in meta for word in words) for words in self._entries)
            and self._may_be_in_state(outline)
        )

    def _may_be_in_state(self, outline: Outline) -> bool:
        return (
            not self._endings
            or outline.status not in self._not
            or any(state in outline.meta for state in self._endings)
        )


def _spelled(text: str) -> set[bytes]:
    """A text as JSON has it."""
    return {json.dumps(text).encode(), json.dumps(text, ensure_ascii=False).encode(errors="surrogatepass")}
