"""What `tidegate doctor` finds: one line each."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final


class Mark(enum.StrEnum):
    """Whether it is as it should be; NOTE where that is not known, does not matter here, or is only worth knowing."""

    GOOD = "✓"
    BAD = "✗"
    NOTE = "–"


_STATES: Final = {Mark.GOOD: ("ok", True), Mark.BAD: ("bad", False), Mark.NOTE: ("note", None)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: it, in a word or two.
        mark: how it is.
        said: what was seen, with the numbers.
        cure: what to do; empty where nothing is to be done.
        why: what it matters for, or where it is known from; empty where ``said`` has it.
    """

    what: str
    mark: Mark
    said: str
    cure: str = ""
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; these names and the three states stay."""
        state, ok = _STATES[self.mark]
        return {
            "check": self.what,
            "state": state,
            "ok": ok,
            "said": self.said,
            "why": self.why or None,
            "cure": self.cure or None,
        }


def good(what: str, said: str) -> Finding:
    """As it should be."""
    return Finding(what, Mark.GOOD, said)


def bad(what: str, said: str, cure: str, why: str = "") -> Finding:
    """Something is amiss."""
    return Finding(what, Mark.BAD, said, cure, why)


def note(what: str, said: str, cure: str = "", why: str = "") -> Finding:
    """Something to know."""
    return Finding(what, Mark.NOTE, said, cure, why)
