"""How an ended job answers: with its result, or with the error that it ended with."""

from __future__ import annotations

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
