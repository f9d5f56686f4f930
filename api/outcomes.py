"""How an ended job answers: with its result, or with the error that it ended with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.record import JobRecord


def failure(rec: JobRecord) -> ClientError | None:
    """The error that an ended job answers with; None where it has a result."""
    error = rec.outcome.error if rec.outcome else None
    if error is not None:
        return ClientError.from_body(error)
    if rec.state is State.CANCELLED:
        return ClientError("cancelled", f"{rec.id} was cancelled")
    if rec.outcome is None or rec.outcome.result is None:
        return ClientError("internal_error", f"{rec.id} ended without a result")
    return None


def result_of(rec: JobRecord) -> dict[str, Any]:
    """The result of a job that has one."""
    return dict((rec.outcome.result if rec.outcome else None) or {})


def usage_of(records: Sequence[JobRecord], choices: int) -> dict[str, Any] | None:
    """The tokens of jobs that answer one request: each prompt's once, and all of the answers'.

    Args:
        records: the jobs, those of one prompt one behind the other.
        choices: how many jobs a prompt has.
    """
    usages = [result_of(rec).get("usage") or {} for rec in records]
    if len(usages) == 1:
        return usages[0] or None
    prompt = sum(usage.get("prompt_tokens", 0) for usage in usages[::choices])
    completion = sum(usage.get("completion_tokens", 0) for usage in usages)
    cached = [usage.get("prompt_tokens_details", {}).get("cached_tokens", 0) for usage in usages[::choices]]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(cached)},
    }
