"""What a refused client is promised: a place, when it is due, when to come, how long it is held. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from scheduler.errors import RETRY_AFTER_MAX_SECONDS, clamp_retry_after

LATE_SECONDS: Final = 1.0
"""How long newcomers are kept off the place of a client that does not come when it was told to: who obeys is
late by the network alone, and most who are later never come."""

GRACE_SECONDS: Final = 5.0
"""How long such a client may still take its place, if it is there."""

AHEAD_MOST_SECONDS: Final = 3600.0
"""Nobody is promised a place so far ahead: what is foreseen of it is worth nothing."""

BOOKINGS_MOST: Final = 1024
TWINS_MOST: Final = 64
"""Places held for requests that are alike, of one owner."""


@dataclass(frozen=True, slots=True)
class Booking:
    """A place in the queue, held for a request that was refused.

    ``due`` is when there should be room for it, ``come_at`` when its client was told to come: the same,
    unless no client can be told to come so late. Both are Unix seconds.
    """

    digest: str
    """Of the owner and the request."""
    serial: str
    """Tells it from those of requests alike."""
    due: float
    come_at: float
    tokens: int
    priority: str
    owner: str = ""

    @property
    def lapses_at(self) -> float:
        """When nobody came for it, in Unix seconds."""
        return self.come_at + GRACE_SECONDS

    def keeps_off(self, now: float) -> bool:
        """Whether newcomers are still kept off the place."""
        return now < self.come_at + LATE_SECONDS


@dataclass(frozen=True, slots=True)
class Promise:
    """What a client is told, in whole seconds, and the moments behind it."""

    retry_after: int
    due: float
    come_at: float


def promise(now: float, seconds: float) -> Promise:
    """What to tell a client for whom there will be room in so many seconds; never to come before it.

    Where it can be told of no time so late, it is told the latest, and comes again to hear the rest.
    """
    told = clamp_retry_after(seconds)
    come_at = now + told
    return Promise(told, now + seconds if seconds > RETRY_AFTER_MAX_SECONDS else come_at, come_at)


def whose(bookings: Iterable[Booking], digest: str, now: float, *, again: bool | None) -> Booking | None:
    """The place that is held for a request, if one is.

    Requests alike cannot be told from one that comes back, unless their clients say so, but by the time: who
    obeys comes when it was told to. So one that comes while no client of its like is expected is another, with
    a place of its own; but not beyond a number.

    Args:
        bookings: every place held.
        digest: of the owner and the request.
        now: Unix seconds.
        again: whether the client was refused before; None where it does not say.
    """
    alike = sorted((each for each in bookings if each.digest == digest), key=lambda each: each.come_at)
    if not alike:
        return None
    if again or (again is None and alike[0].come_at <= now):
        return alike[0]
    return alike[-1] if len(alike) >= TWINS_MOST else None
