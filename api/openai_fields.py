"""What all of OpenAI's requests here have in common: how text is drawn, and this queue's own fields."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.job_bounds import with_job_bounds
from scheduler.request import Flag, Integer, Number

TIERS: Final = {"batch": "flex", "standard": "default", "interactive": "priority"}
"""Our classes as OpenAI's service tiers, its words for sooner or later; its other tiers say nothing."""

_CLASSES: Final = {tier: priority for priority, tier in TIERS.items()}

Hint = Annotated[Any, Field(description="Taken; it changes nothing here.")]
Tier = Annotated[
    Any,
    Field(
        description="`flex`, `default` and `priority` are the classes `batch`, `standard` and `interactive`."
    ),
]


class OpenAIFields(BaseModel):
    """Fields of a request that becomes a job. Null says nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=with_job_bounds)

    model: str
    stream: Flag | None = None
    stop: str | Annotated[tuple[str, ...], Field(max_length=16)] | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Integer | None = None
    min_p: Number | None = None
    seed: Integer | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    logit_bias: Annotated[dict[int, Number], Field(max_length=1024)] | None = None
    metadata: dict[str, str] | None = None
    priority: Literal["interactive", "standard", "batch"] | None = None
    queue_timeout: Number | None = None
    run_timeout: Number | None = None
    on_insufficient_memory: Literal["wait", "fail"] | None = None
    max_attempts: Integer | None = None
    service_tier: Tier = None

    def class_named(self) -> dict[str, str]:
        """The job's class, where the request says one, by its own name or by OpenAI's."""
        tier = _CLASSES.get(self.service_tier) if isinstance(self.service_tier, str) else None
        named = self.priority or tier
        return {"priority": named} if named else {}
