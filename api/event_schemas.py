"""What the events of streams carry, as models: the source of their part of the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import ErrorAnswer, JobAnswer, Usage
from api.spec import Events
from scheduler.events import TERMINAL_KINDS, Kind


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobQueued(_Said):
    """A job was taken."""

    at: float | None = Field(
        None, description="Unix seconds, as in every event that has it; not in logs of old."
    )


class JobStarted(_Said):
    """A worker took the job up."""

    at: float | None = None

    attempt: int
    worker: str


class JobDelta(_Said):
    """A piece of the output; its parts together are the result's."""

    text: str
    reasoning: str | None = None
    logprobs: list[Any] | None = None


class JobRequeued(_Said):
    """The job waits again, with what it has: its output goes on where it stopped."""

    at: float | None = None
    attempt: int
    reason: str


class JobEnded(JobAnswer):
    """The job as it ended."""

    at: float | None


JOB_EVENTS: Final[Events] = {
    Kind.QUEUED.value: JobQueued,
    Kind.STARTED.value: JobStarted,
    Kind.DELTA.value: JobDelta,
    Kind.REQUEUED.value: JobRequeued,
    **{kind.value: JobEnded for kind in sorted(TERMINAL_KINDS)},
    "error": ErrorAnswer,
}


class ChatChunk(BaseModel):
    """A piece of OpenAI's chat completion; the last has the usage, where it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage | None = None


CHAT_EVENTS: Final[Events] = {"message": (ChatChunk, ErrorAnswer)}


class TextChunk(BaseModel):
    """A piece of OpenAI's older completion of text; the last has the usage, where it was asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage | None = None


TEXT_EVENTS: Final[Events] = {"message": (TextChunk, ErrorAnswer)}
