"""Where workers' recent pasts are kept: each writes its own with its report, in the same round trip.

Keys::

    tidegate:tide:{worker}   stream; field ``said`` is a :class:`scheduler.tide.Entry` (JSON). The server numbers its
                             entries by its clock. Some thousand are kept, and it lapses a quarter of an hour after
                             the last
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from redis import Redis

from scheduler.round_trip import replies_of
from scheduler.swap import Word
from scheduler.tide import HISTORY_SECONDS, Entry

_KEPT: Final = 1_024
"""One a second, for longer than :data:`~scheduler.tide.HISTORY_SECONDS`."""

_READ_MOST: Final = 1_200
"""The server trims by whole blocks of a hundred, and others may write there too."""

_NUMBER_MOST: Final = (1 << 63) - 1
"""Whoever writes to the server numbers entries as they like; a cursor ends here."""

Number = tuple[int, int]
"""An entry's: milliseconds of the server's clock, and which of that millisecond's."""

Numbered = tuple[Number, Entry]

BEFORE_ALL: Final[Number] = (0, 0)


def tide_key(worker: str) -> str:
    """A worker's recent past."""
    return f"tidegate:tide:{worker}"


def entry_commands(worker: str, entry: Entry) -> tuple[tuple[Word, ...], ...]:
    """The commands that write an entry."""
    key = tide_key(worker)
    return (
        ("XADD", key, "MAXLEN", "~", _KEPT, "*", "said", entry.dump()),
        ("EXPIRE", key, HISTORY_SECONDS),
    )


def cursor_of(histories: Iterable[Sequence[Numbered]]) -> int:
    """The milliseconds of the newest of all entries, for :func:`behind_all`; 0 where there is none."""
    return min(_NUMBER_MOST, max((entries[-1][0][0] for entries in histories if entries), default=0))


def behind_all(milliseconds: int) -> Number:
    """The number behind which entries begin that were written after a millisecond."""
    return (min(milliseconds, _NUMBER_MOST), _NUMBER_MOST)


def read_tides(
    connection: Redis, after: Mapping[str, Number], seconds: float = HISTORY_SECONDS
) -> dict[str, list[Numbered]]:
    """Workers' entries, oldest first, as they all are at one moment; what cannot be read is left out.

    Args:
        connection: a client that answers bytes.
        after: by worker, the newest entry that is known already, or :data:`BEFORE_ALL`.
        seconds: how far back to go, by the server's clock.
    """
    if not after:
        return {}
    pipeline = connection.pipeline(transaction=True)
    pipeline.time()
    for worker, (milliseconds, which) in after.items():
        oldest = f"({milliseconds}-{which}" if milliseconds else "-"
        pipeline.xrevrange(tide_key(worker), "+", oldest, _READ_MOST)
    (now_seconds, _), *streams = replies_of(pipeline)
    since = (now_seconds - seconds) * 1000
    return {
        worker: [each for each in _entries(stream) if each[0][0] >= since]
        for worker, stream in zip(after, streams, strict=True)
    }


def _entries(stream: Any) -> list[Numbered]:
    found: list[Numbered] = []
    for entry_id, fields in reversed(stream or ()):
        with suppress(ValueError):
            milliseconds, _, which = entry_id.partition(b"-")
            found.append(((int(milliseconds), int(which)), Entry.parse(fields.get(b"said", b""))))
    return found
