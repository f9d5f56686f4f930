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
from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from redis import Redis
from redis.exceptions import RedisError

from scheduler.card import ModelCard
from scheduler.clock import DEFAULT_TOKENS_PER_SECOND, SLOWEST
from scheduler.envelope import ENVELOPE_VERSION
from scheduler.job import PRIORITIES
from scheduler.progress import Far
from scheduler.round_trip import replies_of
from scheduler.stored_json import read_json
from scheduler.tide import Entry
from scheduler.tides import entry_commands
from scheduler.verdict import WorkerView

log = structlog.get_logger(__name__)

WORKERS_KEY: Final = "tidegate:workers"

PREPARING: Final = ("measuring", "loading")
"""What an engine does with a model before it takes jobs for it."""


def worker_key(name: str) -> str:
    """A worker's report."""
    return f"tidegate:worker:{name}"


def _object(said: Any) -> Any:
    return said if isinstance(said, dict) else {}


def _readable_far(said: Any, read: ValidatorFunctionWrapHandler) -> Far | None:
    """None where it is another's, as a later version's may be: it costs the worker nothing else."""
    try:
        return read(said)  # type: ignore[no-any-return]  # pydantic's handlers are not typed
    except ValueError:
        return None


Amount = Annotated[int, Field(ge=0, le=1 << 53)]
"""Bytes or tokens, as many as a float counts exactly."""


@dataclass(frozen=True, slots=True)
class RunningReport:
    """A running job in a report: bytes it gives back, tokens that its answer is still expected to take."""

    job_id: str
    model: str
    reserved_bytes: Amount
    remaining_tokens: Amount
    far: Annotated[Far | None, WrapValidator(_readable_far)] = None
    """How far it is; None where an earlier version did not say."""


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
    working_bytes: Amount | None = None
    """Of the budget, what jobs that run together may hold now: less after memory ran out, and while the host gives
    less. None where an earlier version did not say."""
    cools_until: FiniteFloat = 0.0
    """Unix seconds until which it starts no engine, since so many died; 0 where it does not wait."""
    version: str = ""
    """Its tidegate's."""
    measures: Annotated[dict[str, Any], BeforeValidator(_object)] = field(default_factory=dict)
    """What it counted since it began, as :meth:`scheduler.tally.Tally.dump` has it; nothing where an earlier version did
    not. It is read where it is wanted: what is none of it costs a worker nothing else."""
    envelope_versions: tuple[int, ...] = (1,)
    """Those of the jobs that it runs; a worker that does not say runs the first."""
    updated_at: FiniteFloat = 0.0

    def takes(self, model: str, priority: str, version: int = ENVELOPE_VERSION) -> bool:
        """Whether it runs jobs of a class and an envelope's version for a model."""
        return model in self.served and priority in self.queues and version in self.envelope_versions

    def state_of(self, model: str) -> str:
        """How a model stands on it: ``loaded``, ``measuring``, ``loading``, or ``served``: it is loaded when asked for."""
        if model in self.cards:
            return "loaded"
        doing, _, which = self.engine.partition(" ")
        return doing if which == model and doing in PREPARING else "served"

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: bytes) -> WorkerReport:
        """Read what :meth:`dump` wrote; fields of later versions are dropped.

        Raises:
            ValueError: it is no report, or lacks fields of this version.
        """
        return _REPORT.validate_python(read_json(text))

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
            cools_until=self.cools_until,
            envelope_versions=frozenset(self.envelope_versions),
        )


_REPORT: Final = TypeAdapter(WorkerReport)  # whoever writes to the server may have written it


def ready_models(workers: Iterable[WorkerReport]) -> set[str]:
    """The models for which some worker runs jobs of some class."""
    return {model for each in workers if {*PRIORITIES} & {*each.queues} for model in each.served}


def state_of(workers: Iterable[WorkerReport], model: str) -> str:
    """How far a model is on the worker that is farthest with it, as :meth:`WorkerReport.state_of` says; or ``unserved``."""
    found = {each.state_of(model) for each in workers if model in ready_models([each])}
    return next((state for state in ("loaded", *PREPARING, "served") if state in found), "unserved")


def report(connection: Redis, worker: WorkerReport, lease_seconds: float, tide: Entry | None = None) -> bool:
    """Publish a report; it lapses, and the worker's jobs with it, unless repeated in time.

    Args:
        connection: a client that answers bytes.
        worker: the report.
        lease_seconds: how long it holds.
        tide: what is added to the worker's recent past with it.

    Returns:
        Whether the one before it had not lapsed.
    """
    pipeline = connection.pipeline(transaction=tide is not None)  # nothing lives that does not lapse
    pipeline.exists(worker_key(worker.name))
    pipeline.set(worker_key(worker.name), worker.dump(), px=int(lease_seconds * 1000))
    pipeline.sadd(WORKERS_KEY, worker.name)
    for command in entry_commands(worker.name, tide) if tide is not None else ():
        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
    return bool(replies_of(pipeline)[0])


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
        with contextlib.suppress(RedisError):  # one that takes no writes can be read all the same
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
