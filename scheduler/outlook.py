"""How long a job will wait, seen from the live workers and all that waits, at one moment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.clock import Starts, Work, total
from scheduler.envelope import ENVELOPE_VERSION
from scheduler.room import urgent
from scheduler.shares import fair_ahead
from scheduler.verdict import WorkerView


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job asks of the workers."""

    model: str
    priority: str
    work_tokens: int
    estimated_bytes: int
    """Alone, its model's weights counted; 0 where that is not known."""
    version: int = ENVELOPE_VERSION
    """Its envelope's: it tells who can run it."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known at one moment.

    Args:
        now: Unix seconds.
        workers: the live ones.
        waiting: jobs and tokens of work of each class.
        owners: how many owners wait in each.
    """

    now: float
    workers: tuple[WorkerView, ...]
    waiting: Mapping[str, tuple[int, int]]
    owners: Mapping[str, int] = field(default_factory=dict)

    def of_all(self, own_tokens: int) -> Starts:
        """The clock of whatever waits, on every worker."""
        return Starts(self.workers, total(self.waiting.values()), own_tokens, 0, self.now)

    def of_job(self, job: Wanted) -> Starts:
        """The clock of those that wait with a job or before its class, on the workers that take it."""
        asked = (job.model, job.priority, job.version)
        takers = [each.as_for(job.model) for each in self.workers if each.takes(*asked)]
        weights = [each.cards[job.model].weights_bytes for each in takers if job.model in each.cards]
        need = max(0, job.estimated_bytes - min(weights, default=0))
        return Starts(takers, self._ahead(job.priority), job.work_tokens, need, self.now)

    def start_seconds(self, job: Wanted, ahead_jobs: int | None = None) -> float:
        """Seconds until a job starts behind so many others; None: behind all of its class."""
        ahead = self.jobs_ahead(job.priority) if ahead_jobs is None else ahead_jobs
        return self.of_job(job).own(ahead)

    def turn(self, priority: str, owned: tuple[int, int]) -> Work:
        """What comes before a newcomer: all of more urgent classes, and of its own as the owners' turns have it.

        Args:
            priority: its class.
            owned: its owner's jobs and tokens that wait.
        """
        jobs, tokens = self.waiting.get(priority, (0, 0))
        own = Work(min(jobs, owned[0]), min(tokens, owned[1]))
        others = max(0, self.owners.get(priority, 1) - (own.jobs > 0))
        before = Work(
            int(fair_ahead(own.jobs, jobs - own.jobs, others)),
            int(min(tokens - own.tokens, others * max(own.tokens, tokens / max(1, jobs)))),
        )
        more_urgent = self._ahead(priority).plus((-jobs, -tokens))
        return more_urgent.plus(own).plus(before)

    def jobs_ahead(self, priority: str) -> int:
        """How many jobs wait in a class and in those before it."""
        return self._ahead(priority).jobs

    def _ahead(self, priority: str) -> Work:
        return total(self.waiting[name] for name in urgent(priority) if name in self.waiting)
