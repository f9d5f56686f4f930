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
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from redis import Redis

from scheduler.job import TERMINAL
from scheduler.swap import Word

STEPS_CHANNEL: Final = "tidegate:steps"


class Kind(enum.StrEnum):
    """What an event says. The kinds that end a log are the terminal states' names."""

    QUEUED = "queued"
    STARTED = "started"
    DELTA = "delta"
    REQUEUED = "requeued"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


_written: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

TERMINAL_KINDS: Final = frozenset(Kind(state.value) for state in TERMINAL)

_KINDS: Final = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """Event ``number`` of a job's log.

    A delta's data holds ``text`` (and ``reasoning``), and ``tokens``, the ids behind it, from which an
    interrupted job goes on.
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
            (str(job), LoggedEvent(int(n), _KINDS[kind], dict(data)))
            for job, n, kind, data in json.loads(payload)
            if wanted is None or job in wanted
        ]
    except (TypeError, ValueError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a step: {error}") from None


def read_events(
    connection: Redis, job_id: str, after: int = 0, count: int | None = None
) -> list[LoggedEvent]:
    """The log's events with numbers above ``after``, in order."""
    return parse_events(connection.xrange(events_key(job_id), f"({after}-0", "+", count))


def parse_events(entries: Any) -> list[LoggedEvent]:
    """The events of a log's entries, as the server answers them."""
    return [_parse_entry(entry_id, fields) for entry_id, fields in entries]


def last_number(connection: Redis, job_id: str) -> int:
    """The newest event's number; 0 for an empty log."""
    entries: Any = connection.xrevrange(events_key(job_id), count=1)
    return _parse_entry(*entries[0]).number if entries else 0


def _parse_entry(entry_id: bytes, fields: dict[bytes, bytes]) -> LoggedEvent:
    return LoggedEvent(
        int(entry_id.split(b"-")[0]), Kind(fields[b"kind"].decode()), json.loads(fields[b"data"])
    )
