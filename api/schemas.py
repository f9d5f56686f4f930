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


EventNumber = Annotated[int, Field(ge=0, le=(1 << 63) - 1), BeforeValidator(_digits)]
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
    """Where a job waits."""

    position: int | None = Field(description="From 1; null while it is moved.")
    eta_seconds: float | None = Field(
        description="Until it should start; null while its model is being loaded, or measured, on the first worker."
    )


class Memory(BaseModel):
    """A job's memory in bytes, and how well it was foreseen."""

    estimated_bytes: int | None
    reserved_bytes: int
    peak_bytes: int | None
    footprint_ratio: float | None = Field(description="The largest reservation over the measured peak.")
    budget_bytes: int | None


class Progress(BaseModel):
    """How far a job is, or was when it ended."""

    prompt_tokens: int = Field(description="Estimated until they were counted.")
    prompt_tokens_computed: int | None = Field(
        None, description="Of a running job's prompt, as its worker last reported, about once a second."
    )
    completion_tokens: int = Field(description="Of a running job, as its worker last reported.")
    tokens_per_second: float | None = Field(description="Of the answer, since its first token.")
    first_token_seconds: float | None = Field(description="From the job's submission to its first token.")


class WebhookAnswer(BaseModel):
    """How the delivery of a job's webhook stands; neither its URL nor its secret is shown."""

    status: Literal["waiting", "pending", "delivered", "failed"]
    attempts: int
    last_error: str | None


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
    retry_of: JobId | None = Field(description="The job that this one was made from, by `retry`.")
    queue: Place | None
    progress: Progress | None = Field(description="Null while no worker has had it.")
    memory: Memory
    metadata: dict[str, str]
    result: Result | None
    error: ErrorDetail | None
    webhook: WebhookAnswer | None
    request: dict[str, Any] | None = Field(
        None,
        description="With `include=request` alone: what was asked, but its webhook. Null where it cannot be read.",
    )


class ResultAnswer(Result):
    """A job's result by itself."""

    id: JobId
    object: Literal["job.result"]
    status: Status
    model: str


class DeletedJob(BaseModel):
    """What is left of a deleted job."""

    id: JobId
    object: Literal["job"]
    deleted: Literal[True]


class JobList(BaseModel):
    """A page of jobs."""

    object: Literal["list"]
    data: list[JobAnswer]
    first_id: JobId | None
    last_id: JobId | None
    has_more: bool = Field(
        description="Whether `next_cursor` leads on. Where few jobs are wanted of very many, a page may be short, or empty,"
        " though more follow."
    )
    next_cursor: JobId | None = Field(
        description="What `after` (or `before`, where that was given) is to be next; not always a job that is wanted."
    )


class WebhookSubject(BaseModel):
    """What a webhook's event is about; its result is fetched."""

    id: JobId
    status: Literal["completed", "incomplete", "failed", "cancelled"]


class WebhookEvent(BaseModel):
    """What a webhook tells, in the form of OpenAI's events."""

    id: Annotated[str, Field(pattern="^evt_[0-9a-z]{26}$")]
    object: Literal["event"]
    created_at: int
    type: Literal["job.completed", "job.incomplete", "job.failed", "job.cancelled"]
    data: WebhookSubject


class Health(BaseModel):
    """The process is up."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """The queue's server answers; without a worker jobs wait."""

    status: Literal["ready"]
    live_workers: Annotated[int, Field(ge=0)]
    cooling_workers: Annotated[int, Field(ge=0)] = Field(
        description="Of the live ones, those that run nothing for a while, since their engines died too often."
    )


class Index(BaseModel):
    """Where everything is: paths by what they are for."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    name: Literal["tidegate"]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoQuery(_Query):
    """No parameters."""


class JobPath(BaseModel):
    """A job's id in a path; one that is not of our form names no job."""

    job_id: Annotated[str, Field(description="A job's id.")]


class JobQuery(_Query):
    """How long to wait for a change of status, in seconds; what else is told."""

    wait: Seconds = 0
    include: Annotated[Literal["request"] | None, Field(description="What was asked, too.")] = None


class StreamQuery(_Query):
    """Where a stream goes on: after the event of this number."""

    after: EventNumber | None = None
