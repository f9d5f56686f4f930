"""Whether the queue has room for one more, and when it will: bounds, and the places held. Pure.

Who finds the queue full is told when it will have had room for everybody refused before, and then for him;
his place is booked for that moment. A newcomer gets in only where every booked place is still there when
its moment comes: jobs that wait then, less those that will surely have started, leave it free. So the
places that are held are no emptier than they must be, and a queue that drains faster than was foreseen
takes newcomers again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scheduler.clock import Starts, Work, total
from scheduler.job import PRIORITIES
from scheduler.promise import Booking

CAUTION: Final = 1.25
"""Who was promised a place keeps it though the workers turn out so much slower than the clock allows for anyway:
as long as that could be, no newcomer is let in before."""

PATIENT: Final = "batch"
"""The class whose jobs may wait beyond the target."""


@dataclass(frozen=True, slots=True)
class Most:
    """How much may wait, of all owners and of each, and for how long a job should."""

    jobs: int
    tokens: int
    target_wait_seconds: float
    owner_jobs: float = math.inf
    owner_tokens: float = math.inf


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait before the newcomer, at most, for it to be let in."""

    jobs: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Full:
    """No room: how many jobs must start first, and when that will be, in seconds from now."""

    starts: int
    seconds: float
    expected_start_seconds: float
    """When the newcomer would start if it waited all the same."""


@dataclass(frozen=True, slots=True)
class Board:
    """The queue at one moment.

    Args:
        now: Unix seconds.
        waiting: jobs and tokens of each class.
        starts: the clock over all that wait and all workers.
        own: the clock over the workers that take the newcomer.
        most: what may wait.
        bookings: places held for others than the newcomer, in any order.
        owner: the newcomer's.
        owned: its owner's jobs and tokens that wait.
        turn: see below.
    """

    now: float
    waiting: Mapping[str, tuple[int, int]]
    starts: Starts
    own: Starts
    most: Most
    bookings: Sequence[Booking] = ()
    owner: str = ""
    owned: tuple[int, int] = (0, 0)
    turn: Work | None = None
    """What comes before the newcomer by its owner's turn; None: all of its class and of more urgent ones."""

    def ahead(self, priority: str) -> Work:
        """What comes before a job of a class."""
        before = total(self.waiting[name] for name in urgent(priority) if name in self.waiting)
        return before if self.turn is None else self.turn


@dataclass(frozen=True, slots=True)
class _Scale:
    """One way in which the queue can be full: an amount, its bound, and what each start takes off it."""

    bound: float
    waits: float
    adds: float
    a_start: float
    booked: Sequence[tuple[int, float]]
    """For each booked place, soonest first: the starts before it is due, and its amount."""

    @property
    def starts_needed(self) -> int:
        """Starts until there is room behind every booking."""
        over = self.waits + sum(amount for _, amount in self.booked) + self.adds - self.bound
        return math.ceil(over / self.a_start)

    @property
    def spare(self) -> float:
        """What may wait for the newcomer to have room now, and every booking when it is due.

        Once the queue has run empty, it is as if the newcomer had never come.
        """
        spare = self.bound - self.adds
        held = 0.0
        for starts, amount in self.booked:
            if self.waits + self.adds + held <= self.a_start * starts:
                break
            held += amount
            spare = min(spare, self.bound - self.adds - held + self.a_start * starts)
        return spare


def ask(board: Board, tokens: int, priority: str) -> Limits | Full:
    """Whether a job may come to wait; with what may wait before it, or when there will be room.

    Args:
        board: the queue.
        tokens: the job's work.
        priority: its class.
    """
    scales = list(_scales(board, tokens, priority))
    spare = [scale.spare for scale in scales]
    if all(scale.waits <= room for scale, room in zip(scales, spare, strict=True)):
        return Limits(math.floor(spare[0]), math.floor(spare[1]))
    return _full(board, scales, priority)


def ask_due(board: Board, tokens: int) -> Limits | Full:
    """The same for a job whose place is due: only the bounds count, and who else is due does not.

    Where there is no room yet, it is told when there will be, behind those of ``board.bookings``.
    """
    scales = list(_scales(board, tokens, PATIENT))
    if all(scale.waits <= scale.bound - scale.adds for scale in scales):
        jobs, work, *_ = scales
        return Limits(math.floor(jobs.bound - jobs.adds), math.floor(work.bound - work.adds))
    return _full(board, scales, PATIENT)


def _full(board: Board, scales: Sequence[_Scale], priority: str) -> Full:
    needed = max(1, *(scale.starts_needed for scale in scales))
    return Full(needed, board.starts.surely(needed), board.own.own(board.ahead(priority).jobs))


def patience_tokens(starts: Starts, target_wait_seconds: float) -> float:
    """Tokens that may wait before a job that should start within the target; no bound where none was measured."""
    if not starts.measured:
        return math.inf
    return max(0, starts.by(target_wait_seconds) - 1) * starts.mean_tokens


def _scales(board: Board, tokens: int, priority: str) -> Iterator[_Scale]:
    most, mean = board.most, board.starts.mean_tokens
    booked = sorted(board.bookings, key=lambda each: each.due)
    by_then = board.starts.surely_by([(each.due - board.now) / CAUTION for each in booked])
    places = list(zip(by_then, booked, strict=True))
    waits = total(board.waiting.values())
    yield _Scale(most.jobs, waits.jobs, 1, 1, [(starts, 1) for starts, _ in places])
    yield _Scale(most.tokens, waits.tokens, min(tokens, most.tokens), mean, _work(places))
    owned = [(starts, each) for starts, each in places if each.owner == board.owner]
    share = board.owned[0] / waits.jobs if board.owned[0] and waits.jobs else 1.0
    if math.isfinite(most.owner_jobs):
        counts = [(starts, 1) for starts, _ in owned]
        yield _Scale(most.owner_jobs, board.owned[0], 1, share, counts)
    if math.isfinite(most.owner_tokens):
        adds = min(tokens, most.owner_tokens)
        yield _Scale(most.owner_tokens, board.owned[1], adds, share * mean, _work(owned))
    within = math.inf if priority == PATIENT else patience_tokens(board.own, most.target_wait_seconds)
    if math.isfinite(within):
        before = urgent(priority)
        turns = [
            (starts, each)
            for starts, each in places
            if each.priority in before and (board.turn is None or each.owner == board.owner)
        ]  # others who were refused come no sooner for it than their turns
        yield _Scale(within, board.ahead(priority).tokens, 0, board.own.mean_tokens, _work(turns))


def _work(places: Sequence[tuple[int, Booking]]) -> list[tuple[int, float]]:
    return [(starts, each.tokens) for starts, each in places]


def urgent(priority: str) -> tuple[str, ...]:
    """A class and those that go before it."""
    return PRIORITIES[: PRIORITIES.index(priority) + 1]
