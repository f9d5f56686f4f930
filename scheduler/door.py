"""Who comes into the queue: at once where there is room, else with a promise of when there will be.

Where nobody was refused and there is room, that is one swap. Else the queue and the places held are read, the
rule (:mod:`scheduler.room`) decides, and a swap does what it decided, unless the queue changed meanwhile.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.bookings import Booked, digest_of, new_serial, nobody_booked, read_bookings, still_booked
from scheduler.clock import soon_tokens, total
from scheduler.errors import ClientError
from scheduler.outlook import Outlook, Wanted
from scheduler.promise import AHEAD_MOST_SECONDS, BOOKINGS_MOST, Booking, promise, whose
from scheduler.queue import JobQueue
from scheduler.record import JobRecord
from scheduler.room import PATIENT, Board, Full, Limits, Most, ask, ask_due
from scheduler.settings import Settings
from scheduler.slip import Slip
from scheduler.standing import Standing
from scheduler.swap import Guard, Swap, Word
from scheduler.verdict import WorkerView
from scheduler.waiting import Bounds

_TRIES: Final = 8
"""Times that a decision is made anew because the queue changed under it."""

_HELD_TRIES: Final = 10
_HELD_SECONDS: Final = 0.5
"""Five seconds in all: who comes when it was told to and finds its room not there yet is let in a moment late
rather than sent away again. A worker may stand still for as long, and promises are late by that."""

_JITTER: Final = 1.05
"""On what a client is told: those who are refused together do not come back in one instant, nor early."""


class Door:
    """Lets jobs in.

    Args:
        queue: the store.
        settings: the bounds.
        outlook: what is known now, what waits read anew.
        clock: Unix seconds.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        queue: JobQueue,
        settings: Settings,
        outlook: Callable[[], Outlook],
        clock: Callable[[], float],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._queue, self._settings, self._outlook = queue, settings, outlook
        self._clock, self._pause = clock, pause
        self._bounds = Bounds.of(settings)
        self._most = Most(
            self._bounds.jobs,
            self._bounds.tokens,
            settings.target_wait,
            math.inf if self._bounds.owner_jobs is None else self._bounds.owner_jobs,
            math.inf if self._bounds.owner_tokens is None else self._bounds.owner_tokens,
        )
        self._turn = threading.Lock()  # one process's clients do not undo each other's decisions

    def let_in(
        self, rec: JobRecord, takers: Sequence[WorkerView], *, again: bool | None = None
    ) -> Standing | None:
        """Put a new job into its queue.

        Args:
            rec: the job.
            takers: the workers that take it.
            again: whether its client was refused before; None where it does not say.

        Returns:
            Where it stands, if that is known.

        Raises:
            ClientError: ``queue_full``, with the time to come back, and a place held for then.
        """
        done, standing = self._straight_in(rec, takers)
        if done:
            return standing
        digest = digest_of(rec.meta.owner, rec.envelope["request"])
        for left in reversed(range(_HELD_TRIES + 1)):
            with self._turn:
                answer = self._decide(rec, digest, again=again, patient=left > 0)
            if answer is None:
                break
            if isinstance(answer, ClientError):
                raise answer
            self._pause(_HELD_SECONDS)
        return None

    def _straight_in(self, rec: JobRecord, takers: Sequence[WorkerView]) -> tuple[bool, Standing]:
        """Where nobody was refused, there is room, and all that waits is soon done: one swap."""
        soon = soon_tokens(takers, self._most.target_wait_seconds)
        tokens = self._bounds.tokens
        if rec.meta.priority != PATIENT:
            tokens = int(min(tokens, soon + rec.meta.work_tokens))
        return self._submit(rec, replace(self._bounds, tokens=tokens), nobody_booked(), ())

    def _submit(
        self, rec: JobRecord, bounds: Bounds, guard: Guard, commands: Sequence[tuple[Word, ...]]
    ) -> tuple[bool, Standing]:
        swap = self._queue.submit_swap(rec, bounds)
        return self._queue.swap_and_look(Swap((guard, *swap.guards), (*commands, *swap.commands)), rec)

    def _decide(
        self, rec: JobRecord, digest: str, *, again: bool | None, patient: bool
    ) -> ClientError | _Soon | None:
        """Let a job in, refuse it, or have it wait a moment; the places held follow."""
        for left in reversed(range(_TRIES)):
            now = self._clock()
            booked = read_bookings(self._queue.connection, now)
            mine = whose(booked.bookings, digest, now, again=again)
            outlook = self._outlook()
            verdict = self._ask(rec, outlook, booked, mine, now)
            if isinstance(verdict, Limits):
                if self._enter(rec, verdict, booked, mine, now):
                    return None
                continue
            if mine is not None and mine.due <= now and patient:
                self._book(booked, replace(mine, come_at=now), now)
                return _Soon()
            told, booking = _promised(rec, digest, mine, verdict, now)
            room = mine is not None or len(booked.bookings) < BOOKINGS_MOST
            if booking.due - now > AHEAD_MOST_SECONDS or not room:
                return self._error(rec, outlook, verdict, len(booked.bookings), told)
            if self._book(booked, booking, now, anyhow=not left):
                return self._error(rec, outlook, verdict, len(booked.bookings), told)
        return ClientError("queue_full", "too many come at once", retry_after=1)

    def _ask(
        self, rec: JobRecord, outlook: Outlook, booked: Booked, mine: Booking | None, now: float
    ) -> Limits | Full:
        tokens, priority = rec.meta.work_tokens, rec.meta.priority
        others = [each for each in booked.bookings if each is not mine and each.keeps_off(now)]
        due = mine is not None and mine.due <= now
        owned = self._queue.owned(rec.meta.owner)
        board = Board(
            now,
            outlook.waiting,
            outlook.of_all(tokens),
            outlook.of_job(wanted(rec)),
            self._most,
            [each for each in others if mine is None or not due or each.due < mine.due],
            rec.meta.owner,
            owned,
            outlook.turn(priority, owned),
        )
        return ask_due(board, tokens) if due else ask(board, tokens, priority)

    def _enter(
        self, rec: JobRecord, limits: Limits, booked: Booked, mine: Booking | None, now: float
    ) -> bool:
        due = mine is not None and mine.due <= now
        bounds = replace(self._bounds, jobs=limits.jobs + 1, tokens=limits.tokens + rec.meta.work_tokens)
        guard = still_booked(mine) if mine is not None and due else booked.unchanged()
        commands = booked.drop_commands(*([mine] if mine is not None else ()))
        return self._submit(rec, bounds, guard, commands)[0]

    def _book(self, booked: Booked, booking: Booking, now: float, *, anyhow: bool = False) -> bool:
        """Hold a place; False where another was held meanwhile."""
        guards = () if anyhow else (booked.unchanged(),)
        return self._queue.swap(Swap(guards, booked.keep_commands(booking, now))) == [1]

    def _error(
        self, rec: JobRecord, outlook: Outlook, full: Full, before: int, retry_after: int
    ) -> ClientError:
        target = self._most.target_wait_seconds
        if full.expected_start_seconds > target and rec.meta.priority != PATIENT:
            why = (
                f"this job would start in about {full.expected_start_seconds:.0f} s; none should wait for more "
                f"than {target:g} s"
            )
        else:
            owned = self._queue.owned(rec.meta.owner)
            why = self._bounds.why_full(Slip.of(rec), total(outlook.waiting.values()), owned)
        if before:
            why += f"; {before:,} refused before it may come first"
        return ClientError("queue_full", why, retry_after=retry_after)


@dataclass(frozen=True, slots=True)
class _Soon:
    """A place is due, and its room will be there in a moment."""


def wanted(rec: JobRecord) -> Wanted:
    """What a job asks of the workers."""
    meta = rec.meta
    return Wanted(meta.model, meta.priority, meta.work_tokens, meta.estimated_bytes or 0)


def _promised(
    rec: JobRecord, digest: str, mine: Booking | None, full: Full, now: float
) -> tuple[int, Booking]:
    """What a client is told, and the place that is held for it from now on."""
    if mine is not None and mine.due > now:  # too early: the place stays as it is
        rest = promise(now, mine.due - now)
        return rest.retry_after, replace(mine, come_at=max(mine.come_at, rest.come_at))
    jitter = random.uniform(1.0, _JITTER)  # noqa: S311 - not for secrets
    made = promise(now, full.seconds * jitter)
    serial = mine.serial if mine is not None else new_serial()
    meta = rec.meta
    booking = Booking(digest, serial, made.due, made.come_at, meta.work_tokens, meta.priority, meta.owner)
    return made.retry_after, booking
