"""What `/v1/capacity` answers, as models: the source of its part of the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from api.schemas import Priority


class WorkerModel(BaseModel):
    """A model on a worker; its card is null until it was measured there."""

    id: str
    card: dict[str, Any] | None


class WorkerAnswer(BaseModel):
    """A live worker, as it last said; sizes are bytes."""

    name: str
    host: str
    pid: int
    engine: str = Field(
        description="`starting`, `loading NAME`, `measuring NAME`, `ready` or `cooling down`. A model that the key may not"
        " use is called `another model`."
    )
    budget_bytes: int
    budget_source: str
    limits_bytes: dict[str, int]
    weights_bytes: int
    reserved_bytes: int
    used_bytes: int
    cache_bytes: int
    prefix_cache_bytes: int = Field(description="Of the cache, what is kept for jobs that begin alike.")
    headroom_bytes: int
    working_bytes: int = Field(
        description="Of the budget, what jobs that run together may hold now: less for a while after memory ran out"
        " (it comes back by 1 % a second), and while the host gives less."
    )
    cools_until: float | None = Field(
        description="Unix seconds until which it starts no engine, since too many died; null where it does not wait."
    )
    running: int
    tokens_per_second: float
    work_tokens_per_second: float
    models: list[WorkerModel]
    queues: list[str]
    counters: dict[str, int]
    footprint_ratios: dict[str, float]
    version: str
    envelope_versions: list[int] = Field(description="Of the jobs that it runs.")
    updated_at: float


class ClassWaiting(BaseModel):
    """What waits of one class."""

    jobs: int
    tokens: int


class Waiting(ClassWaiting):
    """Everything that waits."""

    by_priority: dict[Priority, ClassWaiting]


class WebhookCounts(BaseModel):
    """Webhooks: those still to be sent, and how all others ended; dropped are those whose jobs were gone first."""

    pending: int
    delivered: int
    failed: int
    dropped: int


class Capacity(BaseModel):
    """Who could run what, now."""

    object: Literal["capacity"]
    workers: list[WorkerAnswer]
    queue: Waiting
    webhooks: WebhookCounts
