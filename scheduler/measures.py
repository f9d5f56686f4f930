"""What processes count of the jobs that they see, and under which labels: the one table of it. Pure.

The API shows each at ``/metrics``: what a worker counted as ``tidegate_worker_NAME``, labelled by worker, what the API
counted itself as ``tidegate_api_NAME``; ``_total`` follows where it is a counter. Every label has few values: the classes,
the words of this code, the listed models; never a job, a key, a path or what a client wrote.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from scheduler.errors import TABLE
from scheduler.job import PRIORITIES, TERMINAL
from scheduler.reasons import Reason

NO_CODE: Final = "none"
"""Of a job that ended without an error."""


class Laid(enum.StrEnum):
    """To whom a failed attempt is laid: the job that ran alone, a company of which it is nobody's yet, or others."""

    THE_JOB = "job"
    COMPANY = "company"
    OTHERS = "others"


class StorePart(enum.StrEnum):
    """What needed the queue's server when it did not answer."""

    REQUEST = "request"
    STREAMS = "streams"
    BATCHES = "batches"
    WEBHOOKS = "webhooks"
    METRICS = "metrics"


_FAULTS: Final = (
    *(Reason.OUT_OF_MEMORY, Reason.BUFFER_TOO_LARGE, Reason.RESOURCE_LIMIT),
    *(Reason.VICTIM, Reason.GPU_TIMEOUT, Reason.BUG),
)
"""Those of :class:`scheduler.blame.Fault`."""

VALUES: Final[Mapping[str, frozenset[str]]] = {
    "priority": frozenset(PRIORITIES),
    "fault": frozenset(each.value for each in _FAULTS),
    "blame": frozenset(each.value for each in Laid),
    "reason": frozenset(each.value for each in Reason),
    "state": frozenset(each.value for each in TERMINAL),
    "code": frozenset(TABLE) | {NO_CODE},
    "part": frozenset(each.value for each in StorePart),
}
"""By label: all that it can be."""

_WAITS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_RETRIES: Final = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 300, 600)
_RATIOS: Final = (0.5, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 1.5, 2, 3, 5)
_ANSWERS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class Family:
    """One thing that is counted.

    Args:
        help: what it is, for whoever reads a metric's name.
        labels: by name; ``model`` last, as its values are free.
        bounds: of a distribution, the upper bounds of its buckets; of a counter none.
        by_workers, by_api: who counts it.
    """

    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    by_workers: bool = False
    by_api: bool = False
    values: Mapping[str, frozenset[str]] = field(default_factory=lambda: VALUES)


def _by_workers(words: str, *labels: str, bounds: tuple[float, ...] = (), api: bool = False) -> Family:
    return Family(words, labels, bounds, by_workers=True, by_api=api)


def _by_api(words: str, *labels: str, bounds: tuple[float, ...] = ()) -> Family:
    return Family(words, labels, bounds, by_api=True)


MEASURES: Final[dict[str, Family]] = {
    "claims": _by_workers(
        "Jobs taken from the queue to run, those that waited again counted anew.", "priority"
    ),
    "wait_seconds": _by_workers("From a job's submission to its first claim.", "priority", bounds=_WAITS),
    "time_to_first_token_seconds": _by_workers(
        "From a job's submission to the first token of its answer.", "priority", bounds=_WAITS
    ),
    "requeues": _by_workers(
        "Jobs put back to wait, by the reason that their event says.", "priority", "reason"
    ),
    "sheds": _by_workers(
        "Jobs put back because memory ran short: the requeues of reason memory.", "priority"
    ),
    "preemptions": _by_workers("Jobs put back for an interactive one.", "priority"),
    "attempts_failed": _by_workers(
        "Attempts that ended by a fault. Blame is of the job that ran alone, of nobody yet in a company that ran together, "
        "or of others: another process, or an earlier job.",
        *("priority", "fault", "blame"),
    ),
    "faults": _by_workers("Faults of engines, each counted once however many jobs it met.", "fault"),
    "jobs_ended": _by_workers(
        "Jobs that ended, by state and the code of their error; those that ended while they waited are counted where "
        "that was found, at a worker or at an API.",
        *("state", "code"),
        api=True,
    ),
    "retry_after_told_seconds": _by_workers(
        "Retry-After as it was told, with refusals at submission and with jobs that failed, by the error's code.",
        "code",
        bounds=_RETRIES,
        api=True,
    ),
    "prompt_tokens": _by_workers("Tokens of prompts computed; those computed again count again.", "model"),
    "prompt_tokens_cached": _by_workers("Tokens of prompts not computed, but kept of earlier jobs.", "model"),
    "completion_tokens": _by_workers("Tokens of answers made.", "model"),
    "memory_predicted_over_measured_ratio": _by_workers(
        "Of jobs that ended with a result: the peak that was foreseen over the one that was measured. Below 1 it was too "
        "little, far above 1 memory lay idle.",
        "model",
        bounds=_RATIOS,
    ),
    "submissions": _by_api("Jobs accepted.", "priority"),
    "refusals": _by_api(
        "Submissions refused by admission, of whatever form was right, by the error's code.", "code"
    ),
    "retry_after_needed_seconds": _by_api(
        "Of submissions refused for want of a place: from the refusal until as many waiting jobs had started as had to "
        "start before there was one, whether or not its client came back. Starts between two looks at the workers, at "
        "submissions and scrapes, are taken as even; jobs cancelled while they waited are not seen, and what needs more than "
        "15 minutes is left out.",
        bounds=_RETRIES,
    ),
    "http_requests": _by_api("Requests answered.", "route", "method", "status"),
    "http_request_duration_seconds": _by_api(
        "From a request's head to its answer's: a wait counts, what a stream sends later does not.",
        *("route", "method"),
        bounds=_ANSWERS,
    ),
    "store_failures": _by_api(
        "Times that the queue's server did not answer, or took no writes, by what needed it.", "part"
    ),
}
"""By the name that stands in reports."""


def code_of(error: Mapping[str, Any] | None) -> str:
    """The code of a job's error, of those that there are."""
    if error is None:
        return NO_CODE
    code = error.get("code")
    return code if isinstance(code, str) and code in TABLE else "internal_error"
