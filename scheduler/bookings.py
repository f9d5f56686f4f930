"""The places held for clients who found the queue full, on the server.

Keys::

    tidegate:bookings  hash; ``digest/serial`` -> ``due come_at tokens class owner``; lapses with its last place

The digest is of the owner and the request (SHA-256, half of it): neither can be read from it. Every write
drops the places that have lapsed. What is there and cannot be read is dropped like them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from scheduler.job import PRIORITIES
from scheduler.owner import OWNER
from scheduler.promise import AHEAD_MOST_SECONDS, GRACE_SECONDS, Booking
from scheduler.swap import Guard, Word

BOOKINGS_KEY: Final = "tidegate:bookings"

_FIELD: Final = re.compile(r"([0-9a-f]{32})/([0-9a-f]{8})")
_WORK_MOST: Final = 1 << 40


def digest_of(owner: str, request: Mapping[str, Any]) -> str:
    """What tells one owner's request from any other."""
    said = json.dumps([owner, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()[:32]


def new_serial() -> str:
    """For a booking of its own."""
    return secrets.token_hex(4)


@dataclass(frozen=True, slots=True)
class Booked:
    """What was read: the places held, the fields that hold none any more, and how many there were in all."""

    bookings: tuple[Booking, ...]
    gone: tuple[bytes, ...]
    count: int

    def unchanged(self) -> Guard:
        """That nobody booked since."""
        return Guard(("HLEN", BOOKINGS_KEY), self.count)

    def drop_commands(self, *bookings: Booking) -> tuple[tuple[Word, ...], ...]:
        """Give up these places, and whatever holds none any more."""
        fields: list[Word] = [*self.gone, *(_field(each) for each in bookings)]
        return (("HDEL", BOOKINGS_KEY, *fields),) if fields else ()

    def keep_commands(self, booking: Booking, now: float) -> tuple[tuple[Word, ...], ...]:
        """Hold a place, or hold it for another moment."""
        last = max(each.lapses_at for each in (*self.bookings, booking))
        value = f"{booking.due!r} {booking.come_at!r} {booking.tokens} {booking.priority} {booking.owner}"
        return (
            *self.drop_commands(),
            ("HSET", BOOKINGS_KEY, _field(booking), value),
            ("EXPIRE", BOOKINGS_KEY, max(1, math.ceil(last - now))),
        )


def nobody_booked() -> Guard:
    """That no place is held."""
    return Guard(("HLEN", BOOKINGS_KEY), 0)


def still_booked(booking: Booking) -> Guard:
    """That a place was not used since it was read."""
    return Guard(("HEXISTS", BOOKINGS_KEY, _field(booking)), 1)


def read_bookings(connection: Redis, now: float) -> Booked:
    """The places held.

    Args:
        connection: a client that answers bytes.
        now: Unix seconds.
    """
    fields: Any = connection.hgetall(BOOKINGS_KEY)
    held: list[Booking] = []
    gone: list[bytes] = []
    for field, value in fields.items():
        booking = _parse(field.decode("latin-1"), value.decode("latin-1"), now)
        if booking is None:
            gone.append(field)
        else:
            held.append(booking)
    return Booked(tuple(held), tuple(gone), len(fields))


def _field(booking: Booking) -> str:
    return f"{booking.digest}/{booking.serial}"


def _parse(field: str, value: str, now: float) -> Booking | None:
    """A place that is held now; None where it lapsed, or was not written by this program."""
    named = _FIELD.fullmatch(field)
    if named is None:
        return None
    try:
        due, come_at, tokens, priority, owner = value.split(" ")
        booking = Booking(named[1], named[2], float(due), float(come_at), int(tokens), priority, owner)
    except ValueError:
        return None
    if priority not in PRIORITIES or not OWNER.fullmatch(owner) or not 0 <= booking.tokens < _WORK_MOST:
        return None
    latest = now + AHEAD_MOST_SECONDS + GRACE_SECONDS
    known = booking.due <= latest and now < booking.lapses_at and booking.come_at <= latest
    return booking if known else None
