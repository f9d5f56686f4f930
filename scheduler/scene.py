"""What a live page shows of the queue at one moment: the heads of the classes, what runs, what ended last.

Many may look together: what all see is read once, and for each owner beside what is its own alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer

from scheduler.depth import ClassDepth
from scheduler.job import PRIORITIES, TERMINAL, State
from scheduler.lanes import lane_key
from scheduler.lifecycle import Lifecycle
from scheduler.record import JobRecord
from scheduler.round_trip import replies_of

HEAD_MOST: Final = 20
RUNNING_MOST: Final = 50
ENDED_MOST: Final = 20

_RUNNING_READ_MOST: Final = 512
_ENDED_LOOKED: Final = 200
"""Of each class and kind of end, the last that an owner's are looked for among."""

_OWNERS_KNOWN: Final = 1 << 13

_REGISTRIES: Final = (FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry)


@dataclass(frozen=True, slots=True)
class Class:
    """What waits of one class: how much, and the first of it as clients see it."""

    depth: ClassDepth
    head: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """What one sees who may see an owner's jobs, or all: jobs as clients see them, without their results."""

    queue: dict[str, Class]
    running: tuple[dict[str, Any], ...]
    ended: tuple[dict[str, Any], ...]


class Scenes:
    """Looks at one server's queue.

    Args:
        lifecycle: the store and the verbs.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle, self._queue = lifecycle, lifecycle.queue
        self._owners = OrderedDict[str, str]()
        """Whose the jobs are that ended last."""
        self._before: dict[str, list[str]] = {}
        """By owner, its jobs that had ended when it began to look."""

    def look(self, seers: Collection[str | None]) -> dict[str | None, Scene]:
        """What each sees: an owner what is its own, None everything."""
        waiting = self._queue.depth().classes
        reported = [job.job_id for each in self._lifecycle.workers() for job in each.running]
        running = [
            rec
            for rec in self._queue.headings(sorted({*reported}, reverse=True)[:_RUNNING_READ_MOST])
            if rec.state is State.IN_PROGRESS
        ]
        last = self._last_ended(_ENDED_LOOKED if any(each is not None for each in seers) else ENDED_MOST)
        scenes: dict[str | None, Scene] = {}
        for sees in seers:
            heads = self._heads(sees)
            queue = {name: Class(waiting[name], heads.get(name, ())) for name in PRIORITIES}
            own = [rec for rec in running if sees in {None, rec.meta.owner}][:RUNNING_MOST]
            scenes[sees] = Scene(queue, tuple(self._lifecycle.view_all(own)), tuple(self._ended(sees, last)))
        self._before = {owner: ids for owner, ids in self._before.items() if owner in seers}
        return scenes

    def _heads(self, sees: str | None) -> dict[str, tuple[dict[str, Any], ...]]:
        """The first jobs of each class, in the order in which they stand."""
        if sees is None:
            found = [[rec for rec, _ in head] for head in self._queue.heads(PRIORITIES, HEAD_MOST)]
        else:
            found = self._own_heads(sees)
        views = iter(self._lifecycle.view_all([rec for head in found for rec in head]))
        return {
            name: tuple(sorted((next(views) for _ in head), key=_place))
            for name, head in zip(PRIORITIES, found, strict=True)
        }

    def _own_heads(self, owner: str) -> list[list[JobRecord]]:
        pipeline = self._queue.connection.pipeline(transaction=False)
        for name in PRIORITIES:
            pipeline.zrange(lane_key(name, owner), 0, HEAD_MOST - 1)
        lanes = [_ids(entries or ()) for entries in replies_of(pipeline)]
        known = {
            rec.id: rec
            for rec in self._queue.headings([job_id for lane in lanes for job_id in lane])
            if rec.state is State.QUEUED and rec.meta.owner == owner
        }
        return [[known[job_id] for job_id in lane if job_id in known] for lane in lanes]

    def _last_ended(self, count: int) -> list[str]:
        """The jobs that ended last, the last one first: RQ's registries have them by when they are to be forgotten."""
        pipeline = self._queue.connection.pipeline(transaction=False)
        for name in PRIORITIES:
            for registry in _REGISTRIES:
                key = registry(name, self._queue.connection, serializer=JSONSerializer).key
                pipeline.zrevrange(key, 0, count - 1, withscores=True)
        scored = [(score, job_id) for entries in replies_of(pipeline) for job_id, score in entries or ()]
        return _ids(job_id for _, job_id in sorted(scored, reverse=True))

    def _ended(self, sees: str | None, last: Sequence[str]) -> list[dict[str, Any]]:
        if sees is None:
            chosen = list(last[:ENDED_MOST])
        else:
            new = [job_id for job_id in last if job_id not in self._owners]
            for rec in self._queue.headings(new):
                self._owners[rec.id] = rec.meta.owner
            while len(self._owners) > _OWNERS_KNOWN:
                self._owners.popitem(last=False)
            if sees not in self._before:
                page = self._lifecycle.page(
                    limit=ENDED_MOST, owner=sees, status=[state.value for state in TERMINAL]
                )
                self._before[sees] = [rec.id for rec in page.records]
            own = [job_id for job_id in last if self._owners.get(job_id) == sees][:ENDED_MOST]
            chosen = list(dict.fromkeys((*own, *self._before[sees])))
        records = [rec for rec in self._queue.headings(chosen) if rec.state in TERMINAL]
        records.sort(key=lambda rec: rec.meta.ended_at or 0.0, reverse=True)
        return self._lifecycle.view_all(self._with_errors(records[:ENDED_MOST]))

    def _with_errors(self, records: Sequence[JobRecord]) -> list[JobRecord]:
        """The same, with what went wrong; without what they made, which may be much."""
        failed = iter(self._queue.with_outcomes([rec for rec in records if rec.state is State.FAILED]))
        found = [next(failed) if rec.state is State.FAILED else rec for rec in records]
        return [
            replace(rec, outcome=replace(rec.outcome, result=None)) if rec.outcome else rec for rec in found
        ]


def _ids(entries: Iterable[bytes]) -> list[str]:
    return [entry.decode(errors="replace") for entry in entries]


def _place(view: dict[str, Any]) -> float:
    position = (view["queue"] or {}).get("position")
    return float("inf") if position is None else position
