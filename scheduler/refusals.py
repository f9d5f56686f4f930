"""What clients are told when a job does not run: that it never will, or when to come again."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Final

from scheduler.door import wanted
from scheduler.errors import ClientError, gib, so_many
from scheduler.job import State
from scheduler.outcome import Outcome
from scheduler.outlook import Outlook, Wanted
from scheduler.record import JobRecord
from scheduler.verdict import WorkerView

AT_ONCE_SECONDS: Final = 2.0
"""Within which a job starts that would rather fail than wait. A worker that has room takes it in a few milliseconds; what
was known of the workers when it came may have been a second old, and another may have had that room since."""

_JITTER: Final = 1.2

_NAMES_MOST: Final = 4
"""Of what is served, beside a name that is not; ``/v1/models`` has all."""

_LONGEST_NAME: Final = 256


def overdue_outcome(rec: JobRecord, outlook: Outlook) -> Outcome:
    """How a job ends that waited longer than it was willing to."""
    job = wanted(rec)
    waited = (rec.meta.queue_deadline or rec.created_at) - rec.created_at
    others = max(0, outlook.jobs_ahead(job.priority) - 1)  # itself waits as well
    late = f"had not started within {round(waited, 3):g} s"
    seconds = outlook.start_seconds(job, others)
    if rec.meta.at_once:
        error = _no_room_now(_room(job, _loaded(job, outlook)), seconds, f"it {late}")
    else:
        error = ClientError("queue_timeout", f"the job {late}", retry_after=told_apart(seconds))
    return Outcome(State.FAILED, error=error.body())


def must_wait(job: Wanted, outlook: Outlook) -> ClientError | None:
    """What to tell a new job that would rather fail than wait; None where it could start now, as far as is known."""
    ahead, loaded = outlook.jobs_ahead(job.priority), _loaded(job, outlook)
    placed = any(len(each.seconds_to_free) < each.max_batch for each in loaded)
    room = need, free = _room(job, loaded)
    if loaded and placed and not ahead and need <= free:
        return None
    if loaded and not placed:
        why = "every place beside the running jobs is taken"
    else:
        why = f"{so_many(ahead, 'job')} that {'waits comes' if ahead == 1 else 'wait come'} first"
    return _no_room_now(room, outlook.start_seconds(job, ahead), why)


def _no_room_now(room: tuple[int, int], seconds: float, why: str) -> ClientError:
    need, free = room
    return ClientError(
        "insufficient_memory",
        f"insufficient memory now: the job needs {gib(need)}, {gib(free)} are free, and {why}",
        retry_after=told_apart(seconds),
        estimated_bytes=need,
        limit_bytes=free,
    )


def _loaded(job: Wanted, outlook: Outlook) -> list[WorkerView]:
    """The workers that take a job and have its model in memory, as its model's jobs find them."""
    takers = (each for each in outlook.workers if each.takes(job.model, job.priority, job.version))
    return [each.as_for(job.model) for each in takers if job.model in each.cards]


def _room(job: Wanted, loaded: Sequence[WorkerView]) -> tuple[int, int]:
    """Bytes that a job needs beside its model's weights, and the most that one of these workers has free."""
    weights = min((each.cards[job.model].weights_bytes for each in loaded), default=0)
    return max(0, job.estimated_bytes - weights), max((each.headroom_bytes for each in loaded), default=0)


def told_apart(seconds: float) -> float:
    """A time to tell, a little later for each: those who are told at once do not return at once."""
    return seconds * random.uniform(1.0, _JITTER)  # noqa: S311 - not for secrets


def not_served(model: str, served: Iterable[str]) -> ClientError:
    """That a model is not served, and what is.

    Args:
        model: as the client named it.
        served: what the client may know of.
    """
    names = sorted(served)
    some = ", ".join(name[:_LONGEST_NAME] for name in names[:_NAMES_MOST])
    more = f" and {len(names) - _NAMES_MOST:,} more" if len(names) > _NAMES_MOST else ""
    what = f"served: {some}{more}" if names else "none is"
    message = f"the model {model[:_LONGEST_NAME]!r} is not served here; {what}"
    return ClientError("model_not_found", message, param="model")


def never_fits(what: str, need_bytes: int, limit_bytes: int) -> ClientError:
    """The refusal that no retry changes."""
    return ClientError(
        "memory_never_fits",
        f"{what} needs {gib(need_bytes)} of memory; the largest budget here is {gib(limit_bytes)}",
        estimated_bytes=need_bytes,
        limit_bytes=limit_bytes,
    )
