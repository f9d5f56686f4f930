"""What the API answers and takes beside a job's request, as models: the source of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Priority = Literal["interactive", "standard", "batch"]
JobId = Annotated[str, Field(pattern="^job_[0-9a-z]{26}$", examples=["job_01jd3x0v5f8k2m4n6p8r0s2t4v"])]
Seconds = Annotated[float, Field(ge=0, le=60)]


def _digits(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("not the number of an event")
    return value


EventNumber = Annotated[int, BeforeValidator(_digits), Field(ge=0, le=(1 << 63) - 1)]
"""Digits alone, as it was sent: Python would also read ``1_0``, ``+1`` and spaces around a number."""


class ErrorDetail(BaseModel):
    """What went wrong; figures such as ``estimated_bytes`` and ``limit_bytes`` stand beside it."""

    model_config = ConfigDict(extra="allow")

    status: int
    type: str
    code: str
    message: str
    param: str | None
    retryable: bool
    retry_after: Annotated[int, Field(ge=1, le=120, description="Seconds.")] | None = None


class ErrorAnswer(BaseModel):
    """The one body of every error."""

    model_config = ConfigDict(json_schema_extra={"description": "The one body of every error."})

    error: ErrorDetail


class PromptTokens(BaseModel):
    """Where a prompt's tokens came from."""

    cached_tokens: int = Field(description="Those that were computed for earlier jobs, and kept.")


class Usage(BaseModel):
    """Tokens."""

    model_config = ConfigDict(extra="allow")

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens | None = None


class Result(BaseModel):
    """What a job generated."""

    model_config = ConfigDict(extra="allow")

    text: str
    finish_reason: str
    usage: Usage
    reasoning: str | None = None
    logprobs: list[Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Place(BaseModel):
    """Where a job waits; null in lists."""

    position: int | None
    eta_seconds: float | None


class Memory(BaseModel):
    """A job's memory in bytes, and how well it was foreseen."""

    estimated_bytes: int | None
    reserved_bytes: int
    peak_bytes: int | None
    footprint_ratio: float | None = Field(description="The largest reservation over the measured peak.")
    budget_bytes: int | None


class JobAnswer(BaseModel):
    """A job; times are Unix seconds."""

    id: JobId
    object: Literal["job"]
    status: Status
    model: str
    priority: Priority
    created_at: float
    started_at: float | None
    completed_at: float | None
    attempt: int
    queue: Place | None
    memory: Memory
    metadata: dict[str, str]
    result: Result | None
    error: ErrorDetail | None


class ResultAnswer(Result):
    """A job's result by itself."""

    id: JobId
    object: Literal["job.result"]
    status: Status
    model: str


class ChatCompletion(BaseModel):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class JobList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[JobAnswer]
    has_more: bool
    next_cursor: JobId | None


class ModelAnswer(BaseModel):
    """A served model; ``ready`` where a live worker serves it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    ready: bool


class ModelList(BaseModel):
    """The served models."""

    object: Literal["list"]
    data: list[ModelAnswer]


class WorkerModel(BaseModel):
    """A model on a worker; its card is null until it was measured there."""

    id: str
    card: dict[str, Any] | None


class WorkerAnswer(BaseModel):
    """A live worker, as it last said; sizes are bytes."""

    name: str
    host: str
    pid: int
    engine: str
    budget_bytes: int
    budget_source: str
    limits_bytes: dict[str, int]
    weights_bytes: int
    reserved_bytes: int
    used_bytes: int
    cache_bytes: int
    prefix_cache_bytes: int = Field(description="Of the cache, what is kept for jobs that begin alike.")
    headroom_bytes: int
    running: int
    tokens_per_second: float
    work_tokens_per_second: float
    models: list[WorkerModel]
    queues: list[str]
    counters: dict[str, int]
    footprint_ratios: dict[str, float]
    updated_at: float


class Waiting(BaseModel):
    """Everything that waits."""

    jobs: int
    tokens: int


class Capacity(BaseModel):
    """Who could run what, now."""

    object: Literal["capacity"]
    workers: list[WorkerAnswer]
    queue: Waiting


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoQuery(_Query):
    """No parameters."""


class JobPath(BaseModel):
    """A job's id in a path; one that is not of our form names no job."""

    job_id: Annotated[str, Field(description="A job's id.")]


class ModelPath(BaseModel):
    """A model's name in a path; it may have slashes."""

    model_id: Annotated[str, Field(description="A model's name.")]


class JobQuery(_Query):
    """How long to wait for a change of status, in seconds."""

    wait: Seconds = 0


class StreamQuery(_Query):
    """Where a stream goes on: after the event of this number."""

    after: EventNumber | None = None


class ListQuery(_Query):
    """A page and its filters."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: Annotated[JobId, Field(description="The `next_cursor` of the page before.")] | None = None
    status: Status | None = None
    model: str | None = None
    priority: Priority | None = None
