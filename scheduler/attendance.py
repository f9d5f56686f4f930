"""How many clients wait for a job that nobody can come back to by its id, and what that means when one leaves.

Such a job is cancelled when its client goes away, but a client that tries again joins the job of its first try
(:mod:`scheduler.once`). So it is counted who waits, in the job itself: the field ``attending`` of RQ's hash. A job
that lacks it is one that nobody can join: its client did not say that it might try again, nor gave it a key, or it was
given up.
"""

from __future__ import annotations

from typing import Final

from rq.job import Job

from scheduler.queue import JobQueue
from scheduler.record import ATTENDING_FIELD, JobRecord
from scheduler.swap import Guard, Swap, Word

LINGER_SECONDS: Final = 2.0
"""How long a job goes on without its client, who may come again: OpenAI's client does so within half a second, and the
second time within one."""

_TRIES: Final = 20


def attend_command(job_id: str) -> tuple[Word, ...]:
    """The command that lets a new job be attended by its one client."""
    return ("HSET", Job.key_for(job_id), ATTENDING_FIELD, 1)


def join_swap(rec: JobRecord) -> Swap:
    """The swap by which one more client waits for a job, where nobody came or left since it was read."""
    return Swap((_as_read(rec),), (("HINCRBY", Job.key_for(rec.id), ATTENDING_FIELD, 1),))


def given_up(rec: JobRecord) -> Swap:
    """What goes with a cancellation for want of clients: that there are none; from then on nobody can join."""
    guard = Guard(("HGET", Job.key_for(rec.id), ATTENDING_FIELD), 0)
    return Swap((guard,), (("HDEL", Job.key_for(rec.id), ATTENDING_FIELD),))


def leave(queue: JobQueue, rec: JobRecord) -> int:
    """A client waits no more; how many still do.

    Raises:
        ClientError: ``not_found``; the job was deleted.
    """
    for _ in range(_TRIES):
        if not rec.attending:
            break
        gone = Swap((_as_read(rec),), (("HINCRBY", Job.key_for(rec.id), ATTENDING_FIELD, -1),))
        if queue.swap(gone) == [1]:
            return rec.attending - 1
        rec = queue.fetch(rec.id)
    return rec.attending or 0


def _as_read(rec: JobRecord) -> Guard:
    """That as many wait for a job as when it was read; never so where it cannot be joined."""
    expected = "nobody can join" if rec.attending is None else rec.attending
    return Guard(("HGET", Job.key_for(rec.id), ATTENDING_FIELD), expected)
