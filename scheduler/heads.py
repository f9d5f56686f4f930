"""The heads of queues: which waiting jobs a claim looks at, in which order.

A look takes as many round trips for one class as for all, however long the queues: the lists' fronts and the
owners; the owners' lanes and accounts; where there are more jobs than are asked for, the slips, from which comes
the likely order; then the jobs that come first in it, each read whole. Only where some of these are not
wanted are the others read too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from redis import Redis

from scheduler import lanes
from scheduler.job import made_at
from scheduler.record import JobRecord
from scheduler.shares import Lane, Waiter, fair_order
from scheduler.slip import Slip, slips

Wanted = Callable[[JobRecord], bool]
Found = tuple[JobRecord, int]
"""A job, and how often it was passed."""

_PAGES: Final = 16
"""Pages of a list that one look reads at most."""


@dataclass(frozen=True, slots=True)
class _Glance:
    """A class before its jobs are read: its list, the ids at its front, what the lanes hold."""

    name: str
    key: str
    front: Sequence[str]
    last: str
    seen: lanes.Look

    @property
    def ids(self) -> list[str]:
        """The front's jobs, then those that only lanes showed."""
        return list(dict.fromkeys((*self.front, *(job for jobs in self.seen.jobs.values() for job in jobs))))

    def from_end(self, job_id: str) -> bool:
        """Whether a job that is not in front seems nearer to its list's end, by the times in their ids."""
        return 2 * made_at(job_id) > made_at(self.front[0]) + made_at(self.last)


class Heads:
    """Looks at the queues of one server.

    Args:
        connection: a client that answers bytes.
        read: reads jobs in one round trip; answers those that wait and are wanted.
        key_of: names the list of a class.
    """

    def __init__(
        self,
        connection: Redis,
        read: Callable[[Sequence[str], Wanted], list[Found]],
        key_of: Callable[[str], str],
    ) -> None:
        self._connection = connection
        self._read = read
        self._key_of = key_of
        self._starts: dict[str, int] = {}

    def look(self, names: Iterable[str], count: int, wanted: Wanted) -> list[list[Found]]:
        """The first ``count`` wanted jobs of each class, in the order in which they should be taken."""
        names = list(names)
        glances = self._glances(names, count)
        many = [job_id for each in glances if len(each.ids) > count for job_id in each.ids]
        known = slips(self._connection, many) if many else {}
        firsts = {each.name: _first(each, known, count) for each in glances}
        found = self._found([job for sure, unsure in firsts.values() for job in (*sure, *unsure)], wanted)
        heads = {each.name: self._head(each, count, wanted, firsts[each.name][0], found) for each in glances}
        return [heads.get(name, []) for name in names]

    def _glances(self, names: Sequence[str], count: int) -> list[_Glance]:
        """Every class in which something waits, in two round trips."""
        keys = {name: self._key_of(name) for name in names}
        pipeline = self._connection.pipeline(transaction=False)
        for name, key in keys.items():
            pipeline.lrange(key, 0, count - 1)
            pipeline.lindex(key, -1)
            lanes.ask_owners(pipeline, name)
        replies = pipeline.execute()
        listed = {
            name: (_ids(front), last, lanes.read_owners(owners))
            for name, front, last, owners in zip(keys, *(replies[at::3] for at in range(3)), strict=True)
            if front
        }
        asked = {name: since for name, (_, _, since) in listed.items()}
        looks = lanes.look(self._connection, asked, count)
        return [
            _Glance(name, keys[name], front, _ids([last or b""])[0], looks[name])
            for name, (front, last, _) in listed.items()
        ]

    def _head(
        self,
        glance: _Glance,
        count: int,
        wanted: Wanted,
        likely: Sequence[str],
        found: Mapping[str, Found],
    ) -> list[Found]:
        """The order of a class, its likely first jobs read; where some are not wanted, others are read too."""
        start = self._starts.pop(glance.key, count)
        known, far = dict(found), dict[str, Found]()
        if sum(job_id in found for job_id in likely) < count:
            rest = [job_id for job_id in glance.ids if job_id not in found and job_id not in likely]
            known |= self._found(rest, wanted)
            if len(glance.front) >= count:
                in_front = sum(job_id in known for job_id in glance.front)
                far = self._behind(glance.key, start, count, wanted, in_front)
        jobs = {job_id: known[job_id] for job_id in glance.ids if job_id in known}
        jobs |= far
        records = [rec for rec, _ in jobs.values() if rec.meta.priority == glance.name]
        turns = fair_order(_by_owner(records, glance.seen.since), glance.seen.served, count)
        listed = far.keys() | set(glance.front)
        return [
            (replace(rec, turn=turn, from_end=rec.id not in listed and glance.from_end(rec.id)), passes)
            for turn in turns
            for rec, passes in (jobs[turn.job_id],)
        ]

    def _behind(self, key: str, start: int, count: int, wanted: Wanted, in_front: int) -> dict[str, Found]:
        """What is wanted behind a list's first page, page by page from ``start`` on, until it is enough.

        Where a look finds nothing at all, the next goes on behind it.
        """
        far: dict[str, Found] = {}
        end = start + (_PAGES - 1) * count
        for at in range(start, end, count):
            if in_front + len(far) >= count:
                break
            page = _ids(self._connection.lrange(key, at, at + count - 1))
            far |= self._found(page, wanted)
            if len(page) < count:
                break
        else:
            if not in_front and not far:
                self._starts[key] = end
        return far

    def _found(self, job_ids: Sequence[str], wanted: Wanted) -> dict[str, Found]:
        return {rec.id: (rec, passes) for rec, passes in self._read(job_ids, wanted)}


def _ids(entries: Any) -> list[str]:
    return [entry.decode(errors="replace") for entry in entries]


def _first(glance: _Glance, known: Mapping[str, Slip], count: int) -> tuple[list[str], list[str]]:
    """The jobs to read first: the likely first ``count`` by their slips; and those of which slips tell too little.

    The likely order is the true one where the slips are true. A slip does not tell whether its job was
    put back; its place in its lane does.
    """
    ids, seen = glance.ids, glance.seen
    if len(ids) <= count:
        return ids, []
    back = {job_id for jobs in seen.back.values() for job_id in jobs}
    in_lanes = {job_id for jobs in seen.jobs.values() for job_id in jobs}
    owned: dict[str, list[Waiter]] = {}
    unsure = []
    for job_id in ids:
        slip = known.get(job_id, Slip(0))
        lane = seen.jobs.get(slip.owner, ())
        more_back = job_id not in in_lanes and len(seen.back.get(slip.owner, ())) == len(lane)
        if slip.priority != glance.name or more_back:
            unsure.append(job_id)
        else:
            waiter = Waiter(job_id, slip.tokens, paid=job_id in back)
            owned.setdefault(slip.owner, []).append(waiter)
    order = [Lane(owner, seen.since[owner], jobs) for owner, jobs in owned.items() if owner in seen.since]
    return [turn.job_id for turn in fair_order(order, seen.served, count)], unsure


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
