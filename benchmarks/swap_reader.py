"""Which transition of the table a command to the server makes, read off the wire. Pure.

A client's commands are RESP arrays of bulk strings. A swap is one of them, ``EVALSHA sha 0 …`` or ``EVAL script 0 …``,
whose words are as :mod:`scheduler.swap` encodes them. What a swap does to a job shows in the event that it writes to the
job's log; from where, in its guards: one that asks for the lease moves a job that is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from scheduler.events import Kind
from scheduler.job import TRANSITIONS, Event, State

SUBMIT: Final = "submit"
"""What is not in the table: the swap by which a job comes to be."""

MOMENTS: Final = (SUBMIT, *(f"{state.value} {event.value}" for state, event in TRANSITIONS))
"""By name, every move of a job that a swap makes."""

_EVENT_OF: Final = {
    Kind.STARTED: Event.CLAIM,
    Kind.REQUEUED: Event.REQUEUE,
    Kind.COMPLETED: Event.COMPLETE,
    Kind.INCOMPLETE: Event.RUN_OUT,
    Kind.FAILED: Event.FAIL,
    Kind.CANCELLED: Event.CANCEL,
}
_LOG: Final = b"tidegate:events:"


@dataclass(frozen=True, slots=True)
class Move:
    """A job's move.

    Args:
        job_id: the job.
        moment: one of :data:`MOMENTS`.
        swap: which of the swaps that travel together makes it, from 0.
    """

    job_id: str
    moment: str
    swap: int


def split(buffer: bytes) -> tuple[list[tuple[bytes, list[bytes]]], bytes]:
    """The whole commands at a buffer's front, each as it came and as its words, and the rest.

    Raises:
        ValueError: that is not how a client of a server speaks.
    """
    found: list[tuple[bytes, list[bytes]]] = []
    start = 0
    while (read := _command(buffer, start)) is not None:
        words, end = read
        found.append((buffer[start:end], words))
        start = end
    return found, buffer[start:]


def _command(buffer: bytes, at: int) -> tuple[list[bytes], int] | None:
    line = buffer.find(b"\r\n", at)
    if line < 0:
        return None
    if buffer[at : at + 1] != b"*":
        raise ValueError(f"no command: {buffer[at : at + 20]!r}")
    words = list[bytes]()
    count, at = int(buffer[at + 1 : line]), line + 2
    for _ in range(count):
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        length = int(buffer[at + 1 : line])
        end = line + 2 + length
        if len(buffer) < end + 2:
            return None
        words.append(buffer[line + 2 : end])
        at = end + 2
    return words, at


def moves(words: Sequence[bytes]) -> list[Move]:
    """The moves that a command makes where its guards hold; none where it is no swap."""
    if len(words) < 4 or words[0].upper() not in {b"EVALSHA", b"EVAL"} or words[2] != b"0":
        return []
    try:
        return list(_moves(iter(words[3:])))
    except (ValueError, StopIteration, RuntimeError):
        return []  # another's script


def _moves(words: Iterator[bytes]) -> Iterator[Move]:
    for swap in range(int(next(words))):
        held = False
        for _ in range(int(next(words))):
            next(words), next(words)  # what is compared, and with what
            guard = list(islice(words, int(next(words))))
            held = held or b"lease" in guard[2:]
        for _ in range(int(next(words))):
            command = list(islice(words, int(next(words))))
            if command[0] == b"XADD" and command[1].startswith(_LOG):
                moment = _moment(command[command.index(b"kind") + 1].decode(), held=held)
                if moment is not None:
                    yield Move(command[1].removeprefix(_LOG).decode(), moment, swap)


def _moment(kind: str, *, held: bool) -> str | None:
    if kind == Kind.QUEUED:
        return SUBMIT
    event = _EVENT_OF.get(Kind(kind))
    if event is None:
        return None
    state = State.IN_PROGRESS if held else State.QUEUED
    return f"{state.value} {event.value}" if (state, event) in TRANSITIONS else None


def answers(reply: bytes) -> list[int]:
    """What the server answered a command of swaps, one number for each: 1 where it was done; empty where it refused."""
    lines = reply.split(b"\r\n")
    if not lines[0].startswith(b"*"):
        return []
    count = int(lines[0][1:])
    return [int(line[1:]) for line in lines[1 : count + 1] if line.startswith(b":")]
