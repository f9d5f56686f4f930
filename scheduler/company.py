"""How many jobs may run together: the operator's bound, and those of jobs whose company is being divided. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.batch_account import Holder


@dataclass(frozen=True, slots=True)
class Company:
    """Bounds on how many jobs run together on one worker.

    Args:
        max_batch: the operator's.
        bounds: those of the running jobs that have one, each counted among its own company.
    """

    max_batch: int
    bounds: Mapping[Holder, int] = field(default_factory=dict)

    def most(self, joining: int | None = None) -> int:
        """How many jobs may run together, at least 1.

        That bounds of those who will have ended count too changes nothing: no more run than each of them allows, so
        that the place it leaves is enough.

        Args:
            joining: the bound of a job that would join; None: any company.
        """
        own = self.max_batch if joining is None else joining
        return max(1, min([self.max_batch, own, *self.bounds.values()]))
