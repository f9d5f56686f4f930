"""A batch's lines on the server: taken, running, concluded.

A line is taken in the swap that submits its jobs, and concluded in the swap that keeps its result: whoever dies
in between, it runs once and is counted once.

Keys, which lapse, and end with their batch::

    tidegate:batch:{batch}:running  hash; line -> JSON: the jobs that run it, its ``custom_id``
    tidegate:batch:{batch}:results  hash; line -> ``+`` (answered) or ``-``, and its entry, compressed
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

from redis import Redis
from rq.job import Job, JobStatus

from scheduler.batch import BATCH_SECONDS, Batch, BatchState
from scheduler.batch_lines import Entry, Line, pack_entry, read_entry
from scheduler.bookings import nobody_booked
from scheduler.job import JOB_ID
from scheduler.queue import JobQueue
from scheduler.record import JobRecord
from scheduler.round_trip import replies_of
from scheduler.slip import Slip
from scheduler.spending import Fee
from scheduler.stored_json import read_json
from scheduler.swap import Guard, Swap, Word
from scheduler.waiting import Bounds

_ALIVE: Final = frozenset(status.value.encode() for status in (JobStatus.QUEUED, JobStatus.STARTED))


def batch_key(batch_id: str) -> str:
    """A batch's fields."""
    return f"tidegate:batch:{batch_id}"


def running_key(batch_id: str) -> str:
    """The lines that run."""
    return f"tidegate:batch:{batch_id}:running"


def results_key(batch_id: str) -> str:
    """What is to be written of lines."""
    return f"tidegate:batch:{batch_id}:results"


class Take(enum.Enum):
    """What came of taking a line."""

    DONE = enum.auto()
    MOVED = enum.auto()
    """The batch is not as it was read."""
    KNOWN = enum.auto()
    """The line has its result already."""
    FULL = enum.auto()
    """The queue has no room for it now, or its key no tokens."""


_TAKES: Final = {1: Take.DONE, -1: Take.MOVED, -2: Take.KNOWN}


@dataclass(frozen=True, slots=True)
class Running:
    """A line that runs: its jobs, one for each choice, and the text that the server has of it."""

    number: int
    job_ids: tuple[str, ...]
    custom_id: str
    stored: bytes


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a running line ended, and the tokens that it adds to the batch's counts, by their names."""

    running: Running
    entry: Entry
    tokens: Mapping[str, int] = field(default_factory=dict)


class Progress:
    """The lines of the batches on one server.

    Args:
        queue: the store of jobs.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._connection: Redis = queue.connection
        self._queue = queue

    def keep_faults(self, batch: Batch, entries: Sequence[tuple[int, Entry]]) -> bool:
        """Keep what is told of lines that cannot run; False where the batch is not being looked at any more."""
        still = Guard(("HGET", batch_key(batch.id), "status"), BatchState.VALIDATING.value)
        commands = [word for number, entry in entries for word in _result_commands(batch, number, entry)]
        return self._queue.swap(Swap((still,), tuple(commands))) == [1]

    def run(
        self,
        batch: Batch,
        line: Line,
        end: int,
        records: Sequence[JobRecord],
        bounds: Bounds,
        fee: Fee | None = None,
    ) -> Take:
        """Take the next line by submitting its jobs, all of them, within bounds, where nobody was refused.

        Args:
            batch: as it was read.
            line: the line.
            end: the byte behind it.
            records: its jobs, one at least.
            bounds: what may wait, of all and of its owner; where nothing does, a line that has more comes in too.
            fee: what its jobs together cost its key, which is charged with this; None where that counts no tokens.
        """
        slips, most = [Slip.of(rec) for rec in records], len(records) - 1
        together = replace(slips[0], tokens=sum(slip.tokens for slip in slips))
        within = replace(
            bounds,
            jobs=max(bounds.jobs, len(records)) - most,
            owner_jobs=bounds.owner_jobs and max(bounds.owner_jobs, len(records)) - most,
        )
        submits = [self._queue.submit_swap(rec, bounds).commands for rec in records]
        charge = Swap() if fee is None else fee.swap()
        stored = json.dumps([[rec.id for rec in records], line.custom_id])
        swap = Swap(
            guards=(*_taking(batch, line.number), nobody_booked(), *within.guards(together), *charge.guards),
            commands=(
                _taken_command(batch, line.number, end),
                ("HSET", running_key(batch.id), line.number, stored),
                ("EXPIRE", running_key(batch.id), BATCH_SECONDS),
                *chain(*submits),
                *charge.commands,
            ),
        )
        return _TAKES.get(self._queue.swap(swap)[0], Take.FULL)

    def refuse(self, batch: Batch, number: int, end: int, entry: Entry) -> Take:
        """Take the next line by keeping why it does not run."""
        swap = Swap(
            guards=_taking(batch, number),
            commands=(
                _taken_command(batch, number, end),
                ("HINCRBY", batch_key(batch.id), "failed", 1),
                *_result_commands(batch, number, entry),
            ),
        )
        return _TAKES[self._queue.swap(swap)[0]]

    def pass_over(self, batch: Batch, number: int, end: int) -> None:
        """Take what follows the last line taken, up to one, where the result of each is known already."""
        still = _taking(batch, number)[0]
        self._queue.swap(Swap((still,), (_taken_command(batch, number, end),)))

    def conclude(self, batch: Batch, conclusions: Sequence[Conclusion]) -> None:
        """Keep the results of a few lines that ended, and count them; each once."""
        key, running = batch_key(batch.id), running_key(batch.id)
        swaps = []
        for each in conclusions:
            number = each.running.number
            counts = {"completed" if each.entry.succeeded else "failed": 1} | dict(each.tokens)
            commands = (
                ("HDEL", running, number),
                *_result_commands(batch, number, each.entry),
                *(("HINCRBY", key, name, count) for name, count in counts.items()),
            )
            swaps.append(Swap((Guard(("HGET", running, number), each.running.stored),), commands))
        self._queue.swap(*swaps)

    def running(self, batch: Batch) -> list[Running]:
        """The lines that run, in order; what others wrote among them is let be."""
        entries: Any = self._connection.hgetall(running_key(batch.id))
        found = [_read_running(number, stored) for number, stored in entries.items()]
        return sorted((each for each in found if each is not None), key=lambda each: each.number)

    def stopped(self, running: Sequence[Running]) -> list[Running]:
        """Those whose jobs all ended, or are gone."""
        pipeline = self._connection.pipeline(transaction=False)
        for job_id in chain(*(each.job_ids for each in running)):
            pipeline.hget(Job.key_for(job_id), "status")
        statuses = iter(replies_of(pipeline) if running else ())
        alive = [[next(statuses) in _ALIVE for _ in each.job_ids] for each in running]
        return [each for each, lives in zip(running, alive, strict=True) if not any(lives)]

    def results(self, batch: Batch, numbers: Sequence[int]) -> list[tuple[bool, bytes] | None]:
        """Of each line whether it was answered, and what is to be written, as JSON; None where nothing is known."""
        stored: Any = self._connection.hmget(results_key(batch.id), [str(number) for number in numbers])
        return [None if each is None else read_entry(each) for each in stored]


def _taking(batch: Batch, number: int) -> tuple[Guard, ...]:
    """That a batch takes lines as it was read, and that nothing is known of this one."""
    said = f"{BatchState.IN_PROGRESS}\n{batch.next_line}"
    return (
        Guard(("HMGET", batch_key(batch.id), "status", "next_line"), said, "words"),
        Guard(("HEXISTS", results_key(batch.id), number), 0),
    )


def _taken_command(batch: Batch, number: int, end: int) -> tuple[Word, ...]:
    return ("HSET", batch_key(batch.id), "next_line", number + 1, "offset", end)


def _result_commands(batch: Batch, number: int, entry: Entry) -> Iterator[tuple[Word, ...]]:
    yield ("HSET", results_key(batch.id), number, pack_entry(entry))
    yield ("EXPIRE", results_key(batch.id), BATCH_SECONDS)


def _read_running(number: bytes, stored: bytes) -> Running | None:
    try:
        job_ids, custom_id = read_json(stored)
        if all(JOB_ID.fullmatch(each) for each in job_ids) and job_ids and isinstance(custom_id, str):
            return Running(int(number), tuple(job_ids), custom_id, stored)
    except (ValueError, TypeError):
        pass
    return None
