"""The replayable log of a job: what happened to it, in order, from 1.

Keys::

    tidegate:events:{job}   stream; entry ``n-0`` is event n, with fields ``kind`` and ``data`` (JSON)
    tidegate:steps          channel; one message a step carries the new events of every job in it

An entry's id is its number, so the server itself refuses a repeat. A reader takes the backlog from the
stream, then follows the channel, and goes back to the stream where the numbers show a gap.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError

from scheduler.errors import ClientError
from scheduler.job import TERMINAL
from scheduler.round_trip import is_foreign
from scheduler.stored_json import read_json
from scheduler.swap import Word

STEPS_CHANNEL: Final = "tidegate:steps"


class Kind(enum.StrEnum):
    """What an event says. The kinds that end a log are the terminal states' names.

    ``deleted`` stands in no log, and has no number: the channel alone says it, of a log that is gone.
    ``other`` is what a later release said: its number counts, its data may mean anything; clients are not told of it.
    """

    QUEUED = "queued"
    STARTED = "started"
    DELTA = "delta"
    REQUEUED = "requeued"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DELETED = "deleted"
    OTHER = "other"


_written: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

TERMINAL_KINDS: Final = frozenset(Kind(state.value) for state in TERMINAL)

_COUNT_MOST: Final = (1 << 31) - 1

_KINDS: Final = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """Event ``number`` of a job's log.

    A delta's data holds ``text`` (and ``reasoning``), and ``tokens``, the ids behind it, from which an
    interrupted job goes on. ``at``, in those of queued, started and requeued events, are Unix seconds.
    """

    number: int
    kind: Kind
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def ends(self) -> bool:
        """Whether nothing can follow."""
        return self.kind in TERMINAL_KINDS


def events_key(job_id: str) -> str:
    """The stream's key."""
    return f"tidegate:events:{job_id}"


def append_command(job_id: str, event: LoggedEvent) -> tuple[Word, ...]:
    """The command that writes an event."""
    data = _written(event.data)
    return ("XADD", events_key(job_id), f"{event.number}-0", "kind", event.kind.value, "data", data)


def publish_command(news: Iterable[tuple[str, LoggedEvent]]) -> tuple[Word, ...]:
    """The command that tells every reader of a step's events."""
    rows = [[job_id, event.number, event.kind.value, event.data] for job_id, event in news]
    return ("PUBLISH", STEPS_CHANNEL, _written(rows))


def parse_step(payload: bytes | str, wanted: Container[str] | None = None) -> list[tuple[str, LoggedEvent]]:
    """Read what :func:`publish_command` sent.

    Args:
        payload: the message.
        wanted: the jobs whose events are read; those of all where None.

    Raises:
        ValueError: it is something else.
    """
    try:
        return [
            (str(job), _event(int(n), _kind(kind), data))
            for job, n, kind, data, *_ in read_json(payload)
            if wanted is None or job in wanted
        ]
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise ValueError(f"not a step: {error}") from None


def _event(number: int, kind: Kind, data: Any) -> LoggedEvent:
    """An event whose data is of the kind that those who read it take; of one of a later release nobody takes any.

    Raises:
        ValueError: it is not.
    """
    sound = isinstance(data, dict)
    if sound and kind is not Kind.OTHER:
        tokens, entries = data.get("tokens", ()), data.get("logprobs", ())
        counts = (data.get("attempt", 0), *tokens) if isinstance(tokens, list | tuple) else (None,)
        sound = (
            isinstance(data.get("text", ""), str)
            and isinstance(data.get("at") or 0.0, int | float)
            and isinstance(data.get("reasoning", ""), str)
            and all(type(count) is int and 0 <= count <= _COUNT_MOST for count in counts)
            and isinstance(entries, list | tuple)
            and all(isinstance(entry, dict) and isinstance(entry.get("token"), str) for entry in entries)
        )
    if not sound:
        raise ValueError(f"not the data of a {kind} event")
    return LoggedEvent(number, kind, {} if kind is Kind.OTHER else data)


def read_events(
    connection: Redis, job_id: str, after: int = 0, count: int | None = None
) -> list[LoggedEvent]:
    """The log's events with numbers above ``after``, in order.

    Raises:
        ClientError: as :func:`parse_events`.
    """
    with _readable():
        return parse_events(connection.xrange(events_key(job_id), f"({after}-0", "+", count))


def read_log(connection: Redis, job_id: str) -> tuple[list[LoggedEvent], int | None]:
    """A job's log, nothing where it cannot be read, and the next event's number, None where there can be none."""
    try:
        logged = read_events(connection, job_id)
    except ClientError:
        with suppress(ClientError):
            return [], last_number(connection, job_id) + 1
        return [], None
    return logged, logged[-1].number + 1 if logged else 1


@contextmanager
def _readable() -> Iterator[None]:
    """That a key holds a log, if anything."""
    try:
        yield
    except ResponseError as error:
        if is_foreign(error):
            raise ClientError("internal_error", "the key of the job's log holds something else") from None
        raise


def parse_events(entries: Any) -> list[LoggedEvent]:
    """The events of a log's entries, as the server answers them.

    Raises:
        ClientError: ``internal_error``; somebody wrote into the log what is no event.
    """
    return [_parse_entry(entry_id, fields) for entry_id, fields in entries]


def last_number(connection: Redis, job_id: str) -> int:
    """The newest event's number; 0 for an empty log.

    Raises:
        ClientError: ``internal_error``; its key holds no log.
    """
    with _readable():
        entries: Any = connection.xrevrange(events_key(job_id), count=1)
    return _number(entries[0][0]) if entries else 0


def _number(entry_id: bytes) -> int:
    return int(entry_id.split(b"-")[0])


def _parse_entry(entry_id: bytes, fields: dict[bytes, bytes]) -> LoggedEvent:
    try:
        return _event(_number(entry_id), _kind(fields[b"kind"].decode()), read_json(fields[b"data"]))
    except (ValueError, LookupError):
        message = f"entry {entry_id.decode()} of the job's log cannot be read"
        raise ClientError("internal_error", message) from None


def _kind(name: str) -> Kind:
    """A kind by its name: that of a later release is ``other``, since its event counts in the log's numbers."""
    return _KINDS.get(name, Kind.OTHER)
