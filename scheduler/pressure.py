"""How much of its budget a worker uses after memory ran out in spite of the account. Pure: the clock is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RECOVERY_PER_SECOND: Final = 0.01
"""How fast a lowered working budget returns to the whole, as a share of it."""

DECREASE: Final = 0.8
"""What running out of memory leaves of the working budget (multiplicative decrease)."""

FLOOR: Final = 0.5
"""The least share of the budget that running out may leave."""


@dataclass(slots=True)
class Pressure:
    """How much of the budget is in use since memory last ran out; it outlives engines, and never latches."""

    share: float = 1.0
    lowered_at: float = 0.0

    def at(self, now_seconds: float) -> float:
        """The share: it recovers with time."""
        self.lowered_at = min(self.lowered_at, now_seconds)  # a clock may be set back
        return min(1.0, self.share + (now_seconds - self.lowered_at) * RECOVERY_PER_SECOND)

    def ran_out(self, now_seconds: float) -> None:
        """Memory ran out in spite of the account: admit less for a while."""
        self.share = max(FLOOR, self.at(now_seconds) * DECREASE)
        self.lowered_at = now_seconds
