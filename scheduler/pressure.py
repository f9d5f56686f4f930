"""How much of its budget a worker uses: less after memory ran out, and while the host gives less. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RECOVERY_PER_SECOND: Final = 0.01
"""How fast a lowered working budget returns to the whole, as a share of it."""

DECREASE: Final = 0.8
"""What running out of memory leaves of the working budget (multiplicative decrease)."""

SQUEEZE_SECONDS: Final = 1.0
"""Within which memory that runs out again has run out once: several jobs are shed before one step."""

FLOOR: Final = 0.5
"""The least share of the budget that running out may leave."""


READING_SECONDS: Final = 30.0
"""How long what was read of the host counts: no old reading keeps anybody out."""


@dataclass(slots=True)
class Pressure:
    """What keeps jobs from joining others; it outlives engines, and never latches. Clocks may be set back."""

    share: float = 1.0
    lowered_at: float = 0.0
    reading_bytes: int | None = None
    read_at: float = 0.0

    def at(self, now_seconds: float) -> float:
        """The share of the budget that is in use since memory last ran out: it recovers with time."""
        self.lowered_at = min(self.lowered_at, now_seconds)
        return min(1.0, self.share + (now_seconds - self.lowered_at) * RECOVERY_PER_SECOND)

    def ran_out(self, now_seconds: float) -> None:
        """Memory ran out in spite of the account: admit less for a while. What follows at once is the same squeeze."""
        if self.share < 1 and 0 <= now_seconds - self.lowered_at < SQUEEZE_SECONDS:
            return
        self.share = max(FLOOR, self.at(now_seconds) * DECREASE)
        self.lowered_at = now_seconds

    def read(self, reading_bytes: int, now_seconds: float) -> None:
        """Take what the host can give just now."""
        self.reading_bytes, self.read_at = reading_bytes, now_seconds

    def room_bytes(self, budget_bytes: int, now_seconds: float) -> float:
        """What jobs that share a worker may hold together of its budget."""
        self.read_at = min(self.read_at, now_seconds)
        if self.reading_bytes is not None and now_seconds - self.read_at < READING_SECONDS:
            budget_bytes = min(budget_bytes, self.reading_bytes)
        return budget_bytes * self.at(now_seconds)
