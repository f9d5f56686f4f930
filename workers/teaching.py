"""Which of a batch's steps are measured, and what they teach of the model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from scheduler.card import ModelCard
from scheduler.foresight import Kind
from scheduler.learning import Margins
from workers.engine_job import RunningJob
from workers.guard import Foreseen

_MEASURED_FIRST: Final = 8
_MEASURED_EVERY: Final = 256
"""Of the steps that could teach, the first few and then one in so many are held back to do so: on a GPU such a step
takes as long as three."""


class Teaching:
    """What one batch's steps teach."""

    def __init__(self) -> None:
        self._margins = Margins()
        self._steps_seen: dict[Kind, int] = {"prefill": 0, "decode": 0}
        self._most_bytes = self._share_bytes = 0

    def begin(self) -> None:
        """Other jobs come: what the largest step takes is theirs to say."""
        self._most_bytes = 0

    def joined(self) -> None:
        """Somebody came, who has seen none of the steps before."""
        self._share_bytes = 0

    def share(self, jobs: Collection[RunningJob], took_bytes: int) -> None:
        """Note what is each job's of what a step took; where it was as much since the last one came, all have it."""
        share = took_bytes // max(1, len(jobs))
        if share > self._share_bytes:
            self._share_bytes = share
            for job in jobs:
                job.peak_bytes = max(job.peak_bytes, share)

    def asks_for(self, step: Foreseen) -> bool:
        """Whether the next step is measured: one in a few of those that make peaks."""
        if not (step.teaches and step.work_bytes > step.growth_bytes / 2 > self._most_bytes / 4):
            return False
        seen = self._steps_seen[step.kind]
        self._steps_seen[step.kind] += 1
        return seen < _MEASURED_FIRST or seen % _MEASURED_EVERY == 0

    def note(self, step: Foreseen, took_bytes: int | None) -> None:
        """Take what was foreseen of a step, and what it took beside what was there, where that was measured."""
        self._most_bytes = max(self._most_bytes, step.growth_bytes)
        if took_bytes is not None:
            self._margins.note(step.kind, step.work_bytes, took_bytes - step.other_bytes)

    def applied(self, card: ModelCard) -> ModelCard:
        """A card with what was learnt."""
        return self._margins.applied(card)
