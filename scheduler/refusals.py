"""What clients are told when a job does not run: that it never will, or when to come again."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from scheduler.door import wanted
from scheduler.errors import ClientError, gib
from scheduler.job import State
from scheduler.outcome import Outcome
from scheduler.outlook import Outlook
from scheduler.record import JobRecord

_JITTER: Final = 1.2

_NAMES_MOST: Final = 4
"""Of what is served, beside a name that is not; ``/v1/models`` has all."""

_LONGEST_NAME: Final = 256


def overdue_outcome(rec: JobRecord, outlook: Outlook) -> Outcome:
    """How a job ends that waited longer than it was willing to."""
    waited = (rec.meta.queue_deadline or rec.created_at) - rec.created_at
    seconds = told_apart(outlook.start_seconds(wanted(rec)))
    error = ClientError(
        "queue_timeout", f"the job had not started within {round(waited, 3):g} s", retry_after=seconds
    )
    return Outcome(State.FAILED, error=error.body())


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
