"""Where a waiting job stands: its place, and what waits with it or before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.client import Pipeline

from scheduler import lanes
from scheduler.record import JobRecord
from scheduler.room import urgent
from scheduler.shares import fair_ahead
from scheduler.slip import counted
from scheduler.waiting import class_tokens_key


@dataclass(frozen=True, slots=True)
class Standing:
    """A job's place and its company.

    ``position`` counts from 1, by its owner's turn, behind every more urgent class; None where it waits not.
    ``waiting`` are the jobs of its class and of more urgent ones, and their tokens of work.
    """

    position: int | None
    waiting: Mapping[str, tuple[int, int]]


def ask_standing(pipeline: Pipeline, rec: JobRecord, lists: Mapping[str, str]) -> None:
    """Ask where a job stands; :func:`read_standing` reads the replies.

    Args:
        pipeline: where to.
        rec: the job.
        lists: the key of each class's list.
    """
    name, lane = rec.meta.priority, lanes.lane_key(rec.meta.priority, rec.meta.owner)
    for each in urgent(name):
        pipeline.llen(lists[each])
        pipeline.get(class_tokens_key(each))
    pipeline.lpos(lists[name], rec.id, rank=-1 if rec.from_end else None)
    pipeline.zrank(lane, rec.id)
    pipeline.zcard(lane)
    pipeline.zcard(lanes.owners_key(name))


def read_standing(rec: JobRecord, replies: Sequence[Any]) -> Standing:
    """Read the replies."""
    names = urgent(rec.meta.priority)
    *counts, place, rank, own, owners = replies
    waiting = {
        name: (int(jobs), max(0, counted(tokens)))
        for name, jobs, tokens in zip(names, counts[::2], counts[1::2], strict=True)
    }
    if place is None:
        return Standing(None, waiting)
    *before, (jobs, _) = waiting.values()
    if rank is not None:  # in the index: the list's own place is one among all owners
        place = rank + int(fair_ahead(rank, jobs - own, owners - 1))
    return Standing(sum(each for each, _ in before) + place + 1, waiting)
