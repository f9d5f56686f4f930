"""What a job is: its states, the one table of transitions, and its identity.

Everything that affects where a job may go lives in :data:`TRANSITIONS`; the sets of states below are
derived from it. A transition that is not in the table raises and changes nothing.

A job is *queued* until a worker claims it, *in_progress* while an attempt on a live worker holds it,
and then ends once. ``requeue`` leads back: the attempt ended (its worker died, it was shed, its worker
shut down) and the job did not; its event log keeps what was sent, and the next attempt goes on there.
"""

from __future__ import annotations

import enum
import re
import secrets
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from scheduler.errors import TransitionRefused

PRIORITIES: Final = ("interactive", "standard", "batch")
"""The classes, most urgent first; each is an RQ queue of that name."""

JOB_ID: Final = re.compile(r"job_[0-9a-z]{26}")


class State(enum.StrEnum):
    """Where a job is, in OpenAI's words."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(enum.StrEnum):
    """What moves a job."""

    CLAIM = "claim"
    REQUEUE = "requeue"
    COMPLETE = "complete"
    RUN_OUT = "run_out"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.QUEUED, Event.CLAIM): State.IN_PROGRESS,
    (State.QUEUED, Event.FAIL): State.FAILED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.IN_PROGRESS, Event.REQUEUE): State.QUEUED,
    (State.IN_PROGRESS, Event.COMPLETE): State.COMPLETED,
    (State.IN_PROGRESS, Event.RUN_OUT): State.INCOMPLETE,
    (State.IN_PROGRESS, Event.FAIL): State.FAILED,
    (State.IN_PROGRESS, Event.CANCEL): State.CANCELLED,
}

TERMINAL: Final = frozenset(State) - {origin for origin, _ in TRANSITIONS}
HOLDING: Final = frozenset(target for (_, event), target in TRANSITIONS.items() if event is Event.CLAIM)
"""The states in which a job holds memory."""


def advance(state: State, event: Event) -> State:
    """The state after ``event``.

    Raises:
        TransitionRefused: the table has no such row.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise TransitionRefused(f"a job that is {state} cannot {event}") from None


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a job: a worker's name and the attempt, counted from 1.

    Written into the job at the claim and compared at every write, so that a late word from attempt 1
    cannot touch attempt 2.
    """

    worker: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.worker}/{self.attempt}"

    @classmethod
    @lru_cache(maxsize=1024)  # a running job's is asked for at every step
    def parse(cls, text: str) -> Lease:
        """Read what ``str`` wrote.

        Raises:
            ValueError: ``text`` is not ``worker/attempt``.
        """
        worker, slash, attempt = text.rpartition("/")
        if not (slash and worker):
            raise ValueError(f"{text!r} names no worker and attempt")
        return cls(worker, int(attempt))


_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as it counts


def new_job_id(now_seconds: float | None = None, entropy: int | None = None) -> str:
    """A job id that sorts by time of creation: ``job_`` and a ULID in lower case.

    The first 12 of its random bits are a fraction of the millisecond, as RFC 9562 has it for UUIDs of version 7: of two
    jobs that a client sends one after the other, the first one's turn comes first.

    Args:
        now_seconds: Unix time; the clock's where None.
        entropy: 80 bits; where None the fraction, and 68 that are drawn.
    """
    moment = (time.time() if now_seconds is None else now_seconds) * 1000
    milliseconds = int(moment)
    drawn = int((moment - milliseconds) * (1 << 12)) << 68 | secrets.randbits(68)
    number = (milliseconds << 80) | (drawn if entropy is None else entropy)
    digits = "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -5, -5))
    return f"job_{digits}"


def made_at(job_id: str) -> float:
    """Unix seconds at which a job's id says that it was made; of no use where :func:`new_job_id` made none."""
    milliseconds = 0
    for digit in job_id.removeprefix("job_")[:10]:
        milliseconds = (milliseconds << 5) | max(0, _ALPHABET.find(digit))
    return milliseconds / 1000
