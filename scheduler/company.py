"""How many jobs may run together: the operator's bound, and those of jobs whose company is being divided. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from scheduler.ledger import Holder


@dataclass(frozen=True, slots=True)
class Company:
    """Bounds on how many jobs run together on one worker.

    Args:
        max_batch: the operator's.
        bounds: those of the running jobs that have one, each counted among its own company.
    """

    max_batch: int
    bounds: Mapping[Holder, int] = field(default_factory=dict)

    def most(self, *joining: int | None, leaving: Collection[Holder] = ()) -> int:
        """How many jobs may run together, at least 1.

        Args:
            joining: the bounds of jobs that would join; None: any company.
            leaving: running jobs that will have ended.
        """
        theirs = [bound for holder, bound in self.bounds.items() if holder not in leaving]
        return max(1, min([self.max_batch, *theirs, *(bound for bound in joining if bound is not None)]))
