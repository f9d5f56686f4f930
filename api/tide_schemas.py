"""What `/v1/tide` takes and answers, as models: the source of its part of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.capacity_schemas import Capacity
from api.schemas import JobAnswer, JobId
from api.spec import Events
from scheduler.tide import HISTORY_SECONDS, Kind


class TidePoint(BaseModel):
    """A worker's memory at one moment; weights, reserved, cache and headroom are its budget."""

    at: float = Field(description="Unix seconds, by the worker's clock.")
    budget_bytes: int
    working_bytes: int
    weights_bytes: int
    reserved_bytes: int
    used_bytes: int = Field(description="What was measured.")
    cache_bytes: int
    headroom_bytes: int
    running: int = Field(description="Jobs.")
    tokens_per_second: float


class TideMark(BaseModel):
    """Something that happened."""

    at: float
    kind: Kind
    job_id: JobId | None = Field(
        description="Null where the caller may not see the job, and where it is no job's."
    )
    bytes: int | None = Field(
        description="What was reserved or given back, or the need that could not be met."
    )
    words: str


class TideHistory(BaseModel):
    """One worker's, oldest first."""

    name: str
    points: list[TidePoint]
    marks: list[TideMark]


class Tide(BaseModel):
    """The live workers' recent past."""

    object: Literal["tide"]
    now: float = Field(description="Unix seconds.")
    workers: list[TideHistory]


class TideClass(BaseModel):
    """What waits of one class: all of it counted, and the first jobs that the caller may see."""

    jobs: int
    tokens: int
    oldest_seconds: float | None = Field(
        description="How long the oldest job has waited; null where none waits."
    )
    head: list[JobAnswer]


class TideQueue(BaseModel):
    """By class."""

    interactive: TideClass
    standard: TideClass
    batch: TideClass


class TideNews(BaseModel):
    """How it stands; of the histories, what was written since the event before, and in the first all of it."""

    now: float
    capacity: Capacity
    histories: list[TideHistory]
    queue: TideQueue
    running: list[JobAnswer] = Field(description="Up to 50, the newest; without results.")
    ended: list[JobAnswer] = Field(description="The last 20, without results.")


class TideTrouble(BaseModel):
    """The stream goes on, and knows nothing for now."""

    code: Literal["store_unavailable"]
    message: str


TIDE_EVENTS: Final[Events] = {"tide": TideNews, "trouble": TideTrouble}


class TideQuery(BaseModel):
    """How far back to go, in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: Annotated[float, Field(gt=0, le=HISTORY_SECONDS)] = HISTORY_SECONDS
