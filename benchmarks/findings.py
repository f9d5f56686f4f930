"""What an audit finds: in which column it counts, what it is about, and in words what is wrong."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Column(enum.StrEnum):
    """A figure of the audit's line."""

    LOST = "lost"
    DOUBLED = "doubled"
    CHANGED = "changed"
    LEAKED = "leaked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        column: where it counts.
        subject: a job, a key, a file or a process; it counts once in a column, whatever else is wrong with it.
        words: what is wrong.
    """

    column: Column
    subject: str
    words: str
