"""The trace that a job belongs to, as it travels with the job: W3C's ``traceparent``, in one spelling. Pure.

What the API stored is read back strictly, since whoever writes to the queue's server may have written it: anything else
is no trace, and the job is like any other. (https://www.w3.org/TR/trace-context/)
"""

from __future__ import annotations

import re
from typing import Final

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01")


def write_traceparent(trace_id: int, span_id: int) -> str:
    """The trace, and the span in it that a job's spans hang from; it is recorded."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"


def read_traceparent(stored: object) -> str | None:
    """What :func:`write_traceparent` wrote; None for anything else."""
    return stored if isinstance(stored, str) and _TRACEPARENT.fullmatch(stored) else None
