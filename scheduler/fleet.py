"""The workers that are alive, as they last said themselves.

Keys::

    tidegate:workers         set; names of workers that were ever seen and not yet found gone
    tidegate:worker:{name}   string (JSON) that lapses: a worker's report, and its lease on its jobs
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Final

import structlog
from pydantic import Field, FiniteFloat, TypeAdapter
from redis import Redis

from scheduler.card import ModelCard
from scheduler.clock import DEFAULT_TOKENS_PER_SECOND, SLOWEST
from scheduler.job import PRIORITIES
from scheduler.verdict import WorkerView

log = structlog.get_logger(__name__)

WORKERS_KEY: Final = "tidegate:workers"


def worker_key(name: str) -> str:
    """A worker's report."""
    return f"tidegate:worker:{name}"


Amount = Annotated[int, Field(ge=0, le=1 << 53)]
"""Bytes or tokens, as many as a float counts exactly."""


@dataclass(frozen=True, slots=True)
class RunningReport:
    """A running job in a report: bytes it gives back, tokens that its answer is still expected to take."""

    job_id: str
    model: str
    reserved_bytes: Amount
    remaining_tokens: Amount


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself: bytes, tokens, seconds."""

    name: str
    host: str
    pid: int
    engine: str
    """``starting``, ``loading NAME``, ``measuring NAME``, ``ready`` or ``cooling down``."""
    budget_bytes: int
    budget_source: str
    limits_bytes: dict[str, int]
    """Every limit that was read, by name; ``budget_source`` names the one that binds."""
    weights_bytes: int
    reserved_bytes: int
    used_bytes: int
    cache_bytes: int
    headroom_bytes: int
    chunk_tokens: int
    served: tuple[str, ...]
    cards: dict[str, dict[str, Any]]
    running: tuple[RunningReport, ...] = ()
    tokens_per_second: FiniteFloat = 0.0
    work_tokens_per_second: FiniteFloat = 0.0
    """Prompt and completion tokens together, as fast as lately with the most jobs."""
    max_batch: int = 1
    queues: tuple[str, ...] = ()
    """RQ's queues that it listens to."""
    starts_at: dict[str, FiniteFloat] = field(default_factory=dict)
    """Unix seconds by which it has promised waiting jobs a start."""
    counters: dict[str, int] = field(default_factory=dict)
    footprint_ratios: dict[str, FiniteFloat] = field(default_factory=dict)
    """``min``, ``median`` and ``max`` of foreseen over measured peaks, of the last jobs."""
    prefix_cache_bytes: int = 0
    """Of the engine's cache, what is kept for jobs that begin alike."""
    updated_at: FiniteFloat = 0.0

    def takes(self, model: str, priority: str) -> bool:
        """Whether it runs jobs of a class for a model."""
        return model in self.served and priority in self.queues

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: bytes) -> WorkerReport:
        """Read what :meth:`dump` wrote; fields of later versions are dropped.

        Raises:
            ValueError: it is no report, or lacks fields of this version.
        """
        try:
            return _REPORT.validate_python(json.loads(text))
        except RecursionError:
            raise ValueError("the report is nested too deeply") from None

    def view(self) -> WorkerView:
        """The report as admission reads it."""
        rate = self.tokens_per_second
        per_job = (max(SLOWEST, rate) if rate > 0 else DEFAULT_TOKENS_PER_SECOND) / max(1, len(self.running))
        return WorkerView(
            name=self.name,
            budget_bytes=self.budget_bytes,
            chunk_tokens=self.chunk_tokens,
            served=frozenset(self.served),
            cards=_readable(self.cards),
            seconds_to_free=tuple(
                (job.remaining_tokens / per_job, job.reserved_bytes) for job in self.running
            ),
            running_models=tuple(job.model for job in self.running),
            headroom_bytes=self.headroom_bytes + self.cache_bytes,
            tokens_per_second=max(0.0, rate),
            work_tokens_per_second=max(0.0, self.work_tokens_per_second),
            max_batch=self.max_batch,
            reported_at=self.updated_at,
            queues=frozenset(self.queues),
            starts_at=self.starts_at,
        )


_REPORT: Final = TypeAdapter(WorkerReport)  # whoever writes to the server may have written it


def ready_models(workers: Iterable[WorkerReport]) -> set[str]:
    """The models for which some worker runs jobs of some class."""
    return {model for each in workers if {*PRIORITIES} & {*each.queues} for model in each.served}


def report(connection: Redis, worker: WorkerReport, lease_seconds: float) -> None:
    """Publish a report; it lapses, and the worker's jobs with it, unless repeated in time."""
    pipeline = connection.pipeline(transaction=False)
    pipeline.set(worker_key(worker.name), worker.dump(), px=int(lease_seconds * 1000))
    pipeline.sadd(WORKERS_KEY, worker.name)
    pipeline.execute()


def withdraw(connection: Redis, name: str) -> None:
    """A worker leaves."""
    pipeline = connection.pipeline(transaction=False)
    pipeline.delete(worker_key(name))
    pipeline.srem(WORKERS_KEY, name)
    pipeline.execute()


def live_workers(connection: Redis) -> list[WorkerReport]:
    """Every worker whose report has not lapsed, by name; those whose reports cannot be read are left out."""
    members: Any = connection.smembers(WORKERS_KEY)
    names = sorted(member.decode(errors="replace") for member in members)
    texts: Any = connection.mget([worker_key(name) for name in names]) if names else []
    lapsed = [name for name, text in zip(names, texts, strict=True) if text is None]
    if lapsed:
        connection.srem(WORKERS_KEY, *lapsed)
    found: list[WorkerReport] = []
    for name, text in zip(names, texts, strict=True):
        if text is not None:
            try:
                found.append(WorkerReport.parse(text))
            except ValueError as error:
                _complain(name, " ".join(str(error).split())[:300])
    return found


@lru_cache(256)  # the fleet is read twice a second: each is told of once
def _complain(name: str, reason: str) -> None:
    log.warning("a worker's report cannot be read", worker=name, reason=reason)


def is_alive(connection: Redis, name: str) -> bool:
    """Whether a worker's lease still runs."""
    return bool(connection.exists(worker_key(name)))


def _readable(cards: dict[str, dict[str, Any]]) -> dict[str, ModelCard]:
    """The cards of this version; a model with another's counts as not measured yet."""
    found: dict[str, ModelCard] = {}
    for model, card in cards.items():
        with contextlib.suppress(ValueError):
            found[model] = ModelCard.from_json(card)
    return found
