"""Pages of jobs, in the order in which they were made, and which jobs are on them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypedDict

from scheduler.job import TERMINAL
from scheduler.outlines import Sieve, read_outlines
from scheduler.queue import JobQueue
from scheduler.record import JobRecord

_LOOK: Final = 100
_LOOK_MOST: Final = 800
"""Jobs that are looked at together where the first page did not find enough, twice as many each time; the most take the
server 2 ms, and then others have a turn."""

_READ_LEAST: Final = 32
"""Jobs that are read together, where so many may be wanted."""

_LOOKS_MOST: Final = 20_000
_UNWANTED_MOST: Final = 1_000
"""Jobs that one page looks at, and that it reads though they turn out not to be wanted: each some 60 ms of CPU time.
A page that comes so far is short, or empty, and its cursor leads on."""

_ID: Final = re.compile("job_[0-9a-z]{26}")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of jobs, and where the next one begins.

    ``next_cursor`` is None where no more follow; else it is a job's id, not always of a job that is wanted, and goes
    where the present page's own cursor went: into ``before`` where that led here, into ``after`` otherwise.
    """

    records: tuple[JobRecord, ...]
    next_cursor: str | None


class Wishes(TypedDict, total=False):
    """:class:`Filters`, as keywords."""

    status: Collection[str]
    model: str | None
    priority: str | None
    owner: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs are wanted: those that meet all of these; None, or nothing, lets all through.

    Args:
        status: any of these, as clients see them.
        model, priority, owner: this one.
        metadata: each of these entries.
    """

    status: Collection[str] = ()
    model: str | None = None
    priority: str | None = None
    owner: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def sieve(self) -> Sieve:
        """What lets through, of jobs in outline, those that may be wanted."""
        fields = {"model": self.model, "priority": self.priority, "owner": self.owner}
        return Sieve(fields, self.metadata, self.status)

    def let_through(self, rec: JobRecord) -> bool:
        """Whether a job is wanted."""
        meta = rec.meta
        same = ((self.model, meta.model), (self.priority, meta.priority), (self.owner, meta.owner))
        return (
            (not self.status or rec.wire_state.value in self.status)
            and all(wanted is None or wanted == has for wanted, has in same)
            and self.metadata.items() <= (meta.metadata or {}).items()
        )


@dataclass(slots=True)
class _Seen:
    """What one page has come to, of at most so many jobs."""

    limit: int
    found: list[JobRecord] = field(default_factory=list)
    looked: int = 0
    unwanted: int = 0
    """Jobs that were read, and are not wanted."""
    place: str | None = None
    """The last job that was looked at: a page may go on behind it."""

    @property
    def lacking(self) -> int:
        """Jobs that are still to be found: one more than the page has, to know whether there are more."""
        return self.limit + 1 - len(self.found)

    @property
    def enough(self) -> bool:
        """Whether the page is full, or has cost enough."""
        costly = self.looked >= _LOOKS_MOST or self.unwanted >= _UNWANTED_MOST
        return self.lacking <= 0 or (costly and self.place is not None)

    def came_to(self, job_ids: Sequence[str]) -> None:
        """All of these were looked at; what others wrote there is no place that a client could name."""
        self.place = next((each for each in reversed(job_ids) if _ID.fullmatch(each)), self.place)


class Listing:
    """Lists the jobs of one server.

    Args:
        queue: the store.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def page(
        self,
        filters: Filters,
        *,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page:
        """Jobs without their requests, with how they ended.

        Args:
            filters: which.
            limit: how many at most.
            after: a job's id; the page begins behind it.
            before: a job's id; the page ends right before it, or, with ``after``, at the latest there.
            order: newest first, or oldest first.
        """
        backwards = before is not None and after is None
        newest_first = (order == "desc") is not backwards
        low, high = (before, after) if order == "desc" else (after, before)
        seen, more, count = _Seen(limit), True, limit + 1  # where all are wanted that is enough
        sieve, connection = filters.sieve(), self._queue.connection
        while more and not seen.enough:
            outlines, more = read_outlines(connection, count, low, high, newest_first=newest_first)
            seen.looked += len(outlines)
            left = deque(each.job_id for each in outlines if sieve.lets(each))
            while left and not seen.enough:
                ids = [left.popleft() for _ in range(min(len(left), max(_READ_LEAST, seen.lacking)))]
                wanted = [rec for rec in self._queue.headings(ids) if filters.let_through(rec)]
                seen.found += wanted
                seen.unwanted += len(ids) - len(wanted)
                seen.came_to(ids)
            if left:
                more = True
            elif outlines:
                last = outlines[-1].job_id
                low, high = (low, last) if newest_first else (last, high)
                seen.came_to([each.job_id for each in outlines])
            count = min(_LOOK_MOST, max(_LOOK, 2 * count))
        found = seen.found
        shown = found[:limit]
        cursor = shown[-1].id if len(found) > limit else seen.place if more else None
        # Whoever came last waits near the end of its list, and is sought from there.
        shown = [replace(rec, from_end=order == "desc") for rec in shown]
        return Page(self._as_ended(shown[::-1] if backwards else shown), cursor)

    def _as_ended(self, records: Sequence[JobRecord]) -> tuple[JobRecord, ...]:
        """The same jobs; those that had ended when they were read, with how."""
        ended = iter(self._queue.with_outcomes([rec for rec in records if rec.state in TERMINAL]))
        return tuple(next(ended) if rec.state in TERMINAL else rec for rec in records)
