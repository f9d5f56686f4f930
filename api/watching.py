"""Following a job until something is true of it: its log, checked against the job itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from redis.exceptions import RedisError

from api.presence import Gone
from api.reader import TICK_SECONDS
from api.services import Services
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent, last_number
from scheduler.job import TERMINAL, State
from scheduler.record import JobRecord

CANCEL_SECONDS: Final = 10.0
"""How long the worker of a cancelled job is waited for."""

CHECK_SECONDS: Final = 10.0
"""After so long in silence the job itself is read: RQ's own tools end and delete jobs without a word."""


def watch(
    here: Services, job_id: str, after: int = 0, until: float = math.inf
) -> Iterator[list[LoggedEvent]]:
    """A job's events above ``after``, up to the one that ends it, as they come; an empty list in silence.

    Raises:
        ClientError: ``not_found``; the job was deleted.
    """
    number, heard_at = after, time.monotonic()
    for events in here.reader.follow(job_id, after, until):
        if events and events[-1].kind is Kind.DELETED:
            raise ClientError("not_found", f"{job_id} was deleted", param="id")
        yield events
        if events:
            number, heard_at = events[-1].number, time.monotonic()
        elif time.monotonic() - heard_at >= CHECK_SECONDS:
            heard_at = time.monotonic()
            if (state := _ended_without_a_word(here, job_id, number)) is not None:
                yield [LoggedEvent(number + 1, Kind(state.value))]
                return


def await_job(
    here: Services, rec: JobRecord, seconds: float, enough: Callable[[JobRecord], bool], gone: Gone
) -> JobRecord:
    """Hold until ``enough`` is true of the job, it ended, ``seconds`` passed, or the client went away.

    Args:
        here: the application's services.
        rec: the job as it was last read.
        seconds: how long at most.
        enough: asked after each event that moves a job.
        gone: whether the client is there no more; asked in silence, and each tick of a job that talks.

    Returns:
        The job as it then is.
    """
    until = time.monotonic() + seconds
    number = last_number(here.lifecycle.connection, rec.id)  # before the job, so that no move is missed
    rec = here.lifecycle.get(rec.id)
    if seconds <= 0 or rec.state in TERMINAL or enough(rec):
        return rec
    look_at = time.monotonic() + TICK_SECONDS
    for events in watch(here, rec.id, number, until):
        if not events or time.monotonic() >= look_at:
            if gone():
                break
            look_at = time.monotonic() + TICK_SECONDS
        if any(event.kind is not Kind.DELTA for event in events):
            rec = here.lifecycle.get(rec.id)
            if rec.state in TERMINAL or enough(rec):
                return rec
    return here.lifecycle.get(rec.id)


def await_end(here: Services, rec: JobRecord, seconds: float, gone: Gone) -> JobRecord:
    """Hold until the job ended, ``seconds`` passed, or the client went away; the job as it then is."""
    return await_job(here, rec, seconds, lambda _: False, gone)


def let_go(here: Services, rec: JobRecord, gone: Gone) -> JobRecord:
    """Hold until a job that was cancelled ended, :data:`CANCEL_SECONDS` at most; the job as it then is."""
    return rec if rec.state in TERMINAL else await_end(here, rec, CANCEL_SECONDS, gone)


def _ended_without_a_word(here: Services, job_id: str, number: int) -> State | None:
    """How a job ended whose log does not go on after ``number``; None too where the server does not answer.

    Raises:
        ClientError: ``not_found``.
    """
    with suppress(RedisError, StoreUnavailable):
        rec = here.lifecycle.get(job_id)
        if rec.state in TERMINAL and last_number(here.lifecycle.connection, job_id) <= number:
            return rec.state
    return None
