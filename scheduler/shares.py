"""Fair shares inside a class: which owner's job comes next, and what it costs that owner.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): every owner has a score, in tokens of work that it
was served; the owner with the least comes next. The class has a clock, the highest score at which a job was ever
taken. Nobody stands lower than the clock, so an owner that returns after a while brings no credit along; and
what it was served beyond the clock it still owes. So the work of two owners who both always wait differs by
one job of each at most, however large the jobs are.

A job is charged when it is first taken; one that comes back to wait was paid for, and goes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

FORGIVEN: Final = 1 / 1024
"""Of a job's work, how much the clock moves on where its owner has no other: so that owners which each come once,
however many, do not keep one waiting for ever that was served much before them."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A waiting job, as shares see it."""

    job_id: str
    work_tokens: int
    paid: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """An owner's waiting jobs of a class, in order; it was last served, or came to wait, at ``since_seconds``."""

    owner: str
    since_seconds: float
    jobs: Sequence[Waiter]


@dataclass(frozen=True, slots=True)
class Turn:
    """A job's turn: what a claim of it is charged by.

    ``floor`` is its owner's standing when the order was made, ``start`` that at which the job comes, when those
    before it were taken.
    """

    job_id: str
    floor: float = 0.0
    start: float = 0.0


@dataclass(slots=True)
class Served:
    """A class's account: what each owner was served, in tokens, and the clock."""

    scores: dict[str, float] = field(default_factory=dict)
    clock: float = 0.0

    def standing(self, owner: str) -> float:
        """Where an owner stands: never lower than the clock."""
        return max(self.clock, self.scores.get(owner, 0.0))

    def charge(self, owner: str, turn: Turn, work_tokens: int, *, last: bool = False) -> None:
        """A job was taken, in its turn or out of it.

        An owner's score may have been raised since the order was made, by another worker's claim: the work is
        added to it.

        Args:
            owner: whose job.
            turn: as the order had it.
            work_tokens: the job's.
            last: whether its owner waits no more.
        """
        self.scores[owner] = max(self.scores.get(owner, 0.0), turn.floor) + work_tokens
        self.clock = max(self.clock, turn.start) + (work_tokens * FORGIVEN if last else 0.0)


def fair_order(lanes: Sequence[Lane], served: Served, count: int) -> list[Turn]:
    """The first ``count`` jobs, in the order in which they should be taken.

    First those that were paid for; then always the job of the owner who stands lowest, and among equals of the
    one who has waited unserved for longest. An owner's own jobs keep their order.

    Args:
        lanes: the owners that wait.
        served: the class's account; it is left as it is.
        count: how many.
    """
    account = Served(dict(served.scores), served.clock)
    since = {lane.owner: (0, lane.since_seconds) for lane in lanes}
    waiting = {lane.owner: list(reversed(lane.jobs)) for lane in lanes if lane.jobs}
    turns: list[Turn] = []
    while waiting and len(turns) < count:
        owner = min(
            waiting,
            key=lambda name: (
                -math.inf if waiting[name][-1].paid else account.standing(name),
                since[name],
                name,
            ),
        )
        job = waiting[owner].pop()
        turn = Turn(job.job_id, served.standing(owner), account.standing(owner))
        turns.append(turn)
        if not job.paid:
            account.charge(owner, turn, job.work_tokens)
            since[owner] = (1, len(turns))
        if not waiting[owner]:
            del waiting[owner]
    return turns


def fair_ahead(own: float, others: float, owners: int) -> float:
    """How much of what others wait with comes before a job, by turns.

    While its owner is served what is before it, each other owner is served as much at most, and once more.

    Args:
        own: what its owner waits with before it, in jobs or in tokens of work.
        others: what all others wait with, in the same.
        owners: how many they are.
    """
    return max(0, min(others, owners * (own + 1)))
