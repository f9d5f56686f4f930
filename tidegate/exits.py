"""What the command's exit status tells. Pure.

0  it was done; of a job that was followed: it ended with an answer
1  it failed, or `tidegate doctor` found something amiss
2  the command line is wrong
3  never: no live worker could ever hold the job (``memory_never_fits``); waiting does not help
4  not now: the same may succeed later, after ``retry_after`` seconds (``queue_full``, ``insufficient_memory``, …)
5  the job was cancelled
128 + N  signal N ended it; a job that was followed goes on
"""

from __future__ import annotations

import re
from typing import Any, Final

from scheduler.errors import ClientError, TidegateError
from tidegate.failures import JobCancelled

FAILED: Final = 1
NEVER: Final = 3
NOT_NOW: Final = 4
CANCELLED: Final = 5


def status_of(error: TidegateError) -> int:
    """The exit status that an error ends the command with."""
    if isinstance(error, JobCancelled):
        return CANCELLED
    if not isinstance(error, ClientError):
        return FAILED
    if error.code == "memory_never_fits":
        return NEVER
    if error.code == "cancelled":
        return CANCELLED
    return NOT_NOW if error.row.retryable else FAILED


def body_of(error: TidegateError) -> dict[str, Any]:
    """What ``--json`` prints of it: the API's own error object, or one made alike of the command's own failure."""
    if isinstance(error, ClientError):
        return {"error": error.body()}
    code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
    return {"error": {"code": "failed" if code == "tidegate_error" else code, "message": str(error)}}
