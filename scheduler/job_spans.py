"""A job's life as spans: what happened, from when to when, in the words that are sent. Pure; it knows no OpenTelemetry.

A trace has, below the span of the submission::

    queue     for every stay in the queue, from coming to being claimed, or to ending there
    attempt   for every stay on a worker, from the claim to its end or its being put back
    ├ prefill   from the grant, when its prompt was counted and its memory held, to the first token
    └ decode    from the first token to the last

Names of attributes are those of OpenTelemetry's conventions for generative AI where these have one; the others begin
with ``tidegate.``. No prompt, no answer, and no message that may quote one is among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scheduler.job import Lease, State
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from scheduler.record import JobRecord

Value = str | int | float | bool | Sequence[str] | None
"""What an attribute may be; one that is None is left out."""

PROVIDER: Final = "tidegate"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something at one moment of a span, in Unix seconds."""

    name: str
    at: float
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A span that is over: from when to when, in Unix seconds, and what happened meanwhile.

    ``error`` is a code, where it went wrong; ``parts`` are the spans within.
    """

    name: str
    began_at: float
    ended_at: float
    attributes: Mapping[str, Value] = field(default_factory=dict)
    happenings: Sequence[Happening] = ()
    parts: Sequence[Stretch] = ()
    error: str | None = None


def job_attributes(rec: JobRecord) -> dict[str, Value]:
    """What each of a job's spans says of it."""
    return {
        "tidegate.job.id": rec.id,
        "tidegate.priority": rec.meta.priority,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": rec.meta.model,
    }


def end_attributes(outcome: Outcome) -> dict[str, Value]:
    """How a job ended."""
    result: Mapping[str, Any] = outcome.result or {}
    usage: Mapping[str, Any] = result.get("usage") or {}
    reason = result.get("finish_reason")
    details: Mapping[str, Any] = usage.get("prompt_tokens_details") or {}
    return {
        "tidegate.job.status": outcome.state.value,
        "gen_ai.response.finish_reasons": [reason] if isinstance(reason, str) else None,
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "gen_ai.usage.cache_read.input_tokens": details.get("cached_tokens"),
    }


def error_code(outcome: Outcome) -> str | None:
    """The code of the error that a job failed with; None where it did not fail."""
    return str((outcome.error or {}).get("code")) if outcome.state is State.FAILED else None


def waited(rec: JobRecord, began_at: float, ended_at: float, outcome: Outcome | None = None) -> Stretch:
    """A stay in the queue.

    Args:
        rec: the job, as it waited.
        began_at: when the stay began.
        ended_at: when the job was claimed, or ended.
        outcome: how it ended; None where it was claimed.
    """
    meta = rec.meta
    said = job_attributes(rec) | {
        "tidegate.attempts_before": meta.attempt,
        "tidegate.memory.estimated_bytes": meta.estimated_bytes,
        "tidegate.work_tokens": meta.work_tokens,
    }
    error = None
    if outcome is not None:
        said |= end_attributes(outcome)
        error = error_code(outcome)
    return Stretch("queue", began_at, ended_at, said, error=error)


def lost(rec: JobRecord, found_at: float) -> Stretch:
    """An attempt whose worker fell silent, as another sees it: the worker itself cannot tell of it any more."""
    lease = Lease.parse(rec.lease or "?/0")
    said = job_attributes(rec) | {
        "tidegate.worker": lease.worker,
        "tidegate.attempt": lease.attempt,
        "tidegate.requeue.reason": Reason.WORKER_LOST.value,
        "tidegate.memory.reserved_bytes": rec.meta.reserved_bytes,
    }
    began = rec.meta.since if rec.meta.since is not None else found_at
    gone = Happening("worker_lost", found_at)
    return Stretch("attempt", began, found_at, said, (gone,), error=Reason.WORKER_LOST.value)
