"""Whether a job could ever run, by what the live workers say of themselves. Pure.

Three answers, never confused: *admitted* (it can run), *waits* (nobody knows yet), *never fits*.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from scheduler.card import ModelCard
from scheduler.envelope import ENVELOPE_VERSION, VERSIONS_READ
from scheduler.footprint import alone_bytes, fitted
from scheduler.foresight import Row
from scheduler.job import PRIORITIES


class Decision(enum.StrEnum):
    """What a request got."""

    ADMITTED = "admitted"
    WAITS = "waits"
    NEVER_FITS = "never_fits"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A live worker as others see it."""

    name: str
    budget_bytes: int
    chunk_tokens: int
    served: frozenset[str]
    cards: dict[str, ModelCard]
    seconds_to_free: tuple[tuple[float, int], ...] = ()
    """When running jobs end and the bytes each gives back."""
    running_models: tuple[str, ...] = ()
    """Of the same jobs."""
    headroom_bytes: int = 0
    tokens_per_second: float = 0.0
    work_tokens_per_second: float = 0.0
    """Prompt and completion tokens together; 0 where nothing was measured yet."""
    max_batch: int = 1
    """Jobs that it runs together at most."""
    reported_at: float = 0.0
    """Unix seconds; 0 where it is of now."""
    queues: frozenset[str] = frozenset(PRIORITIES)
    """The classes that it takes."""
    starts_at: Mapping[str, float] = field(default_factory=dict)
    """Unix seconds by which it has promised jobs a start."""
    cools_until: float = 0.0
    """Unix seconds until which it starts no engine; 0 where it does not wait."""

    envelope_versions: frozenset[int] = VERSIONS_READ
    """Those of the jobs that it runs."""

    def takes(self, model: str, priority: str, version: int = ENVELOPE_VERSION) -> bool:
        """Whether it runs jobs of a class and an envelope's version for a model."""
        return model in self.served and priority in self.queues and version in self.envelope_versions

    def as_for(self, model: str) -> WorkerView:
        """The worker as a model's jobs find it: where they cannot share a batch, it has one place for them."""
        card = self.cards.get(model)
        if card is None or not card.alone:
            return self
        running = zip(self.running_models, self.seconds_to_free, strict=False)
        own = tuple(free for name, free in running if name == model)
        return replace(self, max_batch=1, seconds_to_free=own, running_models=(model,) * len(own))


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer with its numbers."""

    decision: Decision
    need_bytes: int = 0
    limit_bytes: int = 0


def judge(workers: Iterable[WorkerView], model: str, row: Row) -> Verdict:
    """Whether any live worker that serves the model could ever hold the job, alone.

    A worker that has not measured the model yet leaves it open, as does the lack of any worker: the
    answer is then *waits*. Need and limit are those of the worker that comes closest.
    """
    closest: Verdict | None = None
    for worker in workers:
        if model not in worker.served:
            continue
        card = worker.cards.get(model)
        if card is None:
            return Verdict(Decision.WAITS, limit_bytes=worker.budget_bytes)
        need = alone_bytes(card, fitted(card, row), worker.chunk_tokens)
        if need <= worker.budget_bytes:
            return Verdict(Decision.ADMITTED, need, worker.budget_bytes)
        if closest is None or worker.budget_bytes - need > closest.limit_bytes - closest.need_bytes:
            closest = Verdict(Decision.NEVER_FITS, need, worker.budget_bytes)
    return closest or Verdict(Decision.WAITS)
