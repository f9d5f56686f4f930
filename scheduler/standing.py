"""Where a waiting job stands: its place, and what waits with it or before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler import lanes
from scheduler.record import JobRecord
from scheduler.room import urgent
from scheduler.shares import fair_ahead
from scheduler.slip import counted
from scheduler.swap import Word
from scheduler.waiting import class_tokens_key


@dataclass(frozen=True, slots=True)
class Standing:
    """A job's place and its company.

    ``position`` counts from 1, by its owner's turn, behind every more urgent class; None where it waits not.
    ``waiting`` are the jobs of its class and of more urgent ones, and their tokens of work.
    """

    position: int | None
    waiting: Mapping[str, tuple[int, int]]


def standing_commands(rec: JobRecord, lists: Mapping[str, str]) -> list[tuple[Word, ...]]:
    """What asks where a job stands; :func:`read_standing` reads the replies.

    Args:
        rec: the job.
        lists: the key of each class's list.
    """
    name, lane = rec.meta.priority, lanes.lane_key(rec.meta.priority, rec.meta.owner)
    names = urgent(name)
    return [
        *(("LLEN", lists[each]) for each in names),
        ("MGET", *(class_tokens_key(each) for each in names)),
        ("LPOS", lists[name], rec.id, "RANK", -1 if rec.from_end else 1),
        ("ZRANK", lane, rec.id),
        ("ZCARD", lane),
        ("ZCARD", lanes.owners_key(name)),
    ]


def read_standing(rec: JobRecord, replies: Sequence[Any]) -> Standing:
    """Read the replies."""
    names = urgent(rec.meta.priority)
    *counts, tokens, place, rank, own, owners = replies
    waiting = {
        name: (int(jobs), max(0, counted(its))) for name, jobs, its in zip(names, counts, tokens, strict=True)
    }
    if place is None:
        return Standing(None, waiting)
    *before, (jobs, _) = waiting.values()
    if rank is not None:  # in the index: the list's own place is one among all owners
        place = rank + int(fair_ahead(rank, jobs - own, owners - 1))
    return Standing(sum(each for each, _ in before) + place + 1, waiting)
