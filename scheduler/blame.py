"""Whose fault a failed attempt was, and what becomes of its job. Pure.

Together, nobody is to blame yet: every job goes on where it was, in the same company, and after each further failure in
at most half of it, until it has stood its trial there. So a job that kills engines is alone after as many as the
logarithm of its company (:data:`GROUP_FAILURES` and what halving takes). Alone, it is that job: it is tried once more,
then fails: out of memory as ``insufficient_memory``, anything else as ``worker_killed``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from scheduler.errors import ClientError, gib
from scheduler.record import Meta

VICTIMS_MOST: Final = 8
"""Times that a job may be another's victim before that is taken for its own fault."""

DEATHS_MOST: Final = 2
"""Times that a job may end its engine, or run out of memory, while it is alone, however often it would be tried."""

GROUP_FAILURES: Final = 1
"""Failures in company after which a job runs in the same company again: memory that ran out is cured by the lower
budget, and a death by chance by another try."""


class Blame(enum.StrEnum):
    """Whom a fault is laid to."""

    THE_JOB = "the job"
    """That ran alone; of several together it is nobody's yet."""
    SOMEBODY_ELSE = "somebody else"


class Fault(enum.StrEnum):
    """What ended an attempt."""

    OUT_OF_MEMORY = "out_of_memory"
    BUFFER_TOO_LARGE = "buffer_too_large"
    RESOURCE_LIMIT = "resource_limit"
    VICTIM = "victim"
    GPU_TIMEOUT = "gpu_timeout"
    BUG = "bug"

    @property
    def blame(self) -> Blame:
        """Whom it is laid to; a victim's is of another process, of an earlier job, or of whoever ended the engine."""
        return Blame.SOMEBODY_ELSE if self is Fault.VICTIM else Blame.THE_JOB


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt: what it was, whether its process died, how many ran.

    Nothing here is what MLX or a process said: that may name the operator's folders, and is logged.
    """

    fault: Fault
    died: bool
    company: int
    exit_name: str = ""
    """How its process ended, where it died: a signal, or an exit code."""
    limit_bytes: int = 0
    need_bytes: int = 0
    """What was asked for at once, where that is known."""

    @property
    def memory(self) -> bool:
        """Whether memory ran out."""
        return self.fault in {Fault.OUT_OF_MEMORY, Fault.RESOURCE_LIMIT}

    @property
    def words(self) -> str:
        """What clients are told of it: ``SIGSEGV, bug``."""
        return ", ".join(filter(None, (self.exit_name, self.fault.value.replace("_", " "))))


def judge_failure(meta: Meta, failure: Failure, max_attempts: int, retry_after: float) -> Meta | ClientError:
    """What becomes of one job of a failed batch.

    Returns:
        Its fields for the next attempt, or the error that it ends with.
    """
    if failure.fault.blame is Blame.SOMEBODY_ELSE and meta.victim_of < VICTIMS_MOST:
        return replace(meta, victim_of=meta.victim_of + 1)
    if failure.company > 1:
        again = replace(meta, suspicions=meta.suspicions + 1)
        return again if meta.suspicions < GROUP_FAILURES else _halved(again, failure.company)
    if failure.fault is Fault.BUFFER_TOO_LARGE:
        need, limit = failure.need_bytes, failure.limit_bytes
        message = "this job needs a buffer larger than the device takes"
        return ClientError("memory_never_fits", message, estimated_bytes=need, limit_bytes=limit)
    failures = meta.failures + 1
    costly = failure.died or failure.memory
    if failures < (min(max_attempts, DEATHS_MOST) if costly else max_attempts):
        return replace(meta, failures=failures, company_most=1)
    need, limit = meta.estimated_bytes or 0, failure.limit_bytes or meta.budget_bytes or 0
    if failure.memory:
        ended = f" ({failure.words})" if failure.exit_name else ""
        return ClientError(
            "insufficient_memory",
            f"insufficient memory: the job needs {gib(need)}; it ran out alone within {gib(limit)}{ended}",
            retry_after=retry_after,
            estimated_bytes=need,
            limit_bytes=limit,
        )
    if failure.fault is Fault.VICTIM:
        times = meta.victim_of + failures
        return ClientError(
            "engine_timeout",
            f"what others did stopped this job's engine {times} times ({failure.words})",
            retry_after=retry_after,
        )
    if failure.fault is Fault.GPU_TIMEOUT:
        return ClientError(
            "engine_timeout", f"the engine made no progress ({failure.words})", retry_after=retry_after
        )
    if failure.died:
        return ClientError("worker_killed", f"the job ended its engine {failures} times ({failure.words})")
    return ClientError("internal_error", f"generation failed {failures} times ({failure.words})")


def _halved(meta: Meta, company: int) -> Meta:
    """A job that runs, from now on, in half of the company in which it failed, and never in more than before."""
    half = max(1, company // 2)
    return replace(meta, company_most=half if meta.company_most is None else min(half, meta.company_most))
