"""Who comes into the queue: at once where there is room, else with a promise of when there will be.

Where nobody was refused and there is room, that is one swap. Else the queue and the places held are read, the
rule (:mod:`scheduler.room`) decides, and a swap does what it decided, unless the queue changed meanwhile.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from scheduler.bookings import Booked, digest_of, new_serial, nobody_booked, read_bookings, still_booked
from scheduler.clock import soon_tokens, total
from scheduler.errors import ClientError, Overtaken, so_many
from scheduler.keys import Key
from scheduler.needed import Needed
from scheduler.outlook import Outlook, Wanted
from scheduler.promise import AHEAD_MOST_SECONDS, BOOKINGS_MOST, Booking, promise, whose
from scheduler.queue import JobQueue
from scheduler.record import JobRecord
from scheduler.request import JobRequest
from scheduler.room import PATIENT, Board, Full, Limits, ask, ask_due
from scheduler.settings import Settings
from scheduler.slip import Slip
from scheduler.spending import Fee, Spending, fee_of
from scheduler.standing import Standing
from scheduler.swap import Swap
from scheduler.verdict import WorkerView
from scheduler.waiting import Bounds

_TRIES: Final = 8
"""Times that a decision is made anew because the queue changed under it."""

_HELD_TRIES: Final = 10
_HELD_SECONDS: Final = 0.5
"""Five seconds in all: who comes when it was told to and finds its room not there yet is let in a moment late
rather than sent away again. A worker may stand still for as long, and promises are late by that."""

_TOO_DEAR: Final = -1
"""The answer of a swap whose first guard, that its key has the tokens, did not hold."""

_NOTHING: Final = Swap()

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
        self.spending = Spending()
        self.needed = Needed()
        self._turn = threading.Lock()  # one process's clients do not undo each other's decisions

    def let_in(
        self,
        rec: JobRecord,
        takers: Sequence[WorkerView],
        *,
        again: bool | None = None,
        key: Key | None = None,
        also: Swap = _NOTHING,
    ) -> Standing | None:
        """Put a new job into its queue, and charge its key for it.

        Args:
            rec: the job.
            takers: the workers that take it.
            again: whether its client was refused before; None where it does not say.
            key: its owner's, if it has quotas.
            also: what must be true, and happens, when it comes in.

        Returns:
            Where it stands, if that is known.

        Raises:
            ClientError: ``queue_full``, with the time to come back, and a place held for then;
                ``rate_limit_exceeded``, likewise where too many jobs of the key wait, and without a place where it
                has no tokens left; ``forbidden``, where it never has as many.
            Overtaken: what must be true is not.
        """
        guest = self._guest(rec, key, also)
        done, standing = self._straight_in(guest, takers)
        if done:
            return standing
        digest = digest_of(rec.meta.owner, rec.envelope["request"])
        for left in reversed(range(_HELD_TRIES + 1)):
            with self._turn:
                answer = self._decide(guest, digest, again=again, patient=left > 0)
            if answer is None:
                break
            if isinstance(answer, ClientError):
                raise answer
            self._pause(_HELD_SECONDS)
        return None

    def expects(self, request: JobRequest, owner: str) -> bool:
        """Whether a place is held for a request like this one, of the same owner, that was refused."""
        digest = digest_of(owner, stored(request))
        booked = read_bookings(self._queue.connection, self._clock())
        return any(each.digest == digest for each in booked.bookings)

    def _guest(self, rec: JobRecord, key: Key | None, also: Swap) -> _Guest:
        """A job with the bounds that are its own; what it costs its key."""
        fee = fee_of(key, rec.meta.prompt_tokens, rec.meta.max_tokens, self._clock())
        bounds, quota = self._bounds, key.queued_jobs if key is not None else None
        if quota is None or (bounds.owner_jobs is not None and bounds.owner_jobs < quota):
            return _Guest(rec, bounds, also, fee)
        return _Guest(rec, replace(bounds, owner_jobs=quota), also, fee, quota)

    def _straight_in(self, guest: _Guest, takers: Sequence[WorkerView]) -> tuple[bool, Standing]:
        """Where nobody was refused, there is room, and all that waits is soon done: one swap."""
        soon = soon_tokens(takers, self._settings.target_wait)
        tokens = guest.bounds.tokens
        if guest.rec.meta.priority != PATIENT:
            tokens = int(min(tokens, soon + guest.rec.meta.work_tokens))
        return self._submit(guest, replace(guest.bounds, tokens=tokens), Swap((nobody_booked(),)))

    def _submit(self, guest: _Guest, bounds: Bounds, places: Swap) -> tuple[bool, Standing]:
        """Enter and be charged in one swap.

        Raises:
            ClientError: ``rate_limit_exceeded``; the key has too few tokens left.
            Overtaken: what must be true is not.
        """
        swap, fee = self._queue.submit_swap(guest.rec, bounds).beside(places).beside(guest.also), guest.fee
        if fee is None:
            done, standing, _ = self._queue.swap_and_look(swap, guest.rec)
        else:
            done, standing, (bucket,) = self._queue.swap_and_look(
                swap.beside(fee.swap()), guest.rec, fee.reads()
            )
            self.spending.saw(fee, bucket)
            if done == _TOO_DEAR:
                raise fee.refusal(bucket)
            done += done < 0  # its guard is counted first
        if -len(guest.also.guards) <= done < 0:
            raise Overtaken(f"{guest.rec.id} came second")
        return done == 1, standing

    def _decide(
        self, guest: _Guest, digest: str, *, again: bool | None, patient: bool
    ) -> ClientError | _Soon | None:
        """Let a job in, refuse it, or have it wait a moment; the places held follow."""
        rec = guest.rec
        for left in reversed(range(_TRIES)):
            now = self._clock()
            booked = read_bookings(self._queue.connection, now)
            mine = whose(booked.bookings, digest, now, again=again)
            outlook = self._outlook()
            verdict = self._ask(guest, outlook, booked, mine, now)
            if isinstance(verdict, Limits):
                if self._enter(guest, verdict, booked, mine, now):
                    return None
                continue
            if mine is not None and mine.due <= now and patient:
                self._book(booked, replace(mine, come_at=now), now)
                return _Soon()
            told, booking = _promised(rec, digest, mine, verdict, now)
            room = mine is not None or len(booked.bookings) < BOOKINGS_MOST
            if booking.due - now > AHEAD_MOST_SECONDS or not room:
                return self._error(guest, outlook, verdict, booked, told)
            if self._book(booked, booking, now, anyhow=not left):
                return self._error(guest, outlook, verdict, booked, told)
        return ClientError("queue_full", "too many come at once", retry_after=1)

    def _ask(
        self, guest: _Guest, outlook: Outlook, booked: Booked, mine: Booking | None, now: float
    ) -> Limits | Full:
        rec = guest.rec
        tokens, priority = rec.meta.work_tokens, rec.meta.priority
        others = [each for each in booked.bookings if each is not mine and each.keeps_off(now)]
        due = mine is not None and mine.due <= now
        owned = self._queue.owned(rec.meta.owner)
        board = Board(
            now,
            outlook.waiting,
            outlook.of_all(tokens),
            outlook.of_job(wanted(rec)),
            guest.bounds.most(self._settings.target_wait),
            [each for each in others if mine is None or not due or each.due < mine.due],
            rec.meta.owner,
            owned,
            outlook.turn(priority, owned),
        )
        return ask_due(board, tokens) if due else ask(board, tokens, priority)

    def _enter(self, guest: _Guest, limits: Limits, booked: Booked, mine: Booking | None, now: float) -> bool:
        due = mine is not None and mine.due <= now
        tokens = limits.tokens + guest.rec.meta.work_tokens
        bounds = replace(guest.bounds, jobs=limits.jobs + 1, tokens=tokens)
        guard = still_booked(mine) if mine is not None and due else booked.unchanged()
        commands = booked.drop_commands(*([mine] if mine is not None else ()))
        return self._submit(guest, bounds, Swap((guard,), commands))[0]

    def _book(self, booked: Booked, booking: Booking, now: float, *, anyhow: bool = False) -> bool:
        """Hold a place; False where another was held meanwhile."""
        guards = () if anyhow else (booked.unchanged(),)
        return self._queue.swap(Swap(guards, booked.keep_commands(booking, now))) == [1]

    def _error(
        self, guest: _Guest, outlook: Outlook, full: Full, booked: Booked, retry_after: int
    ) -> ClientError:
        self.needed.refused(full.starts, outlook.now)
        rec, before, target = guest.rec, len(booked.bookings), self._settings.target_wait
        owned = self._queue.owned(rec.meta.owner)
        if guest.quota is not None:
            held = sum(each.owner == rec.meta.owner for each in booked.bookings)
            if owned[0] + held >= guest.quota:
                waits = "waits" if owned[0] == 1 else "wait"
                why = f"{so_many(owned[0], 'job')} of this API key {waits}; at most {guest.quota:,} may"
                return ClientError("rate_limit_exceeded", why, retry_after=retry_after)
        if full.expected_start_seconds > target and rec.meta.priority != PATIENT:
            why = (
                f"this job would start in about {full.expected_start_seconds:.0f} s; none should wait for more "
                f"than {target:g} s"
            )
        else:
            why = guest.bounds.why_full(Slip.of(rec), total(outlook.waiting.values()), owned)
        if before:
            why += f"; {before:,} refused before it may come first"
        return ClientError("queue_full", why, retry_after=retry_after)


@dataclass(frozen=True, slots=True)
class _Guest:
    """A job that wants in: the bounds, what goes with it, what it costs, and its key's quota of jobs if that counts."""

    rec: JobRecord
    bounds: Bounds
    also: Swap
    fee: Fee | None = None
    quota: int | None = None


@dataclass(frozen=True, slots=True)
class _Soon:
    """A place is due, and its room will be there in a moment."""


def stored(request: JobRequest) -> dict[str, Any]:
    """A request as it is kept in its job."""
    return request.model_dump(mode="json", exclude_defaults=True, exclude={"webhook"})


def wanted(rec: JobRecord) -> Wanted:
    """What a job asks of the workers."""
    meta = rec.meta
    return Wanted(meta.model, meta.priority, meta.work_tokens, meta.estimated_bytes or 0, meta.version)


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
