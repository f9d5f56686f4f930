"""What routes say of themselves for the OpenAPI document, beside the models that they take and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask_openapi3.models.info import Info
from flask_openapi3.types import ResponseDict
from pydantic import BaseModel

from api.schemas import ErrorAnswer

INFO: Final = Info(
    title="tidegate",
    version="1",
    description="A memory-aware job queue with admission control for MLX text generation: a queue of jobs under "
    "`/v1/jobs`, and the same queue under OpenAI's names.\n\nEvery error has one body, whose `code` tells what it "
    "is. Where a retry can help, `Retry-After` says when; where none can, `x-should-retry` is `false`.",
)

ERRORS: Final[ResponseDict] = {"4XX": ErrorAnswer, "5XX": ErrorAnswer}
"""Every route's: :mod:`api.document` puts in their place the statuses that can come."""

EVENTS: Final = "x-events"
"""Where a stream's response keeps what its events carry."""

Events = Mapping[str, type[BaseModel] | tuple[type[BaseModel], ...]]
"""What the data of a stream's events are, by the events' names; those without a name are called ``message``."""


def streams(model: type[BaseModel] | None = None, events: Events | None = None) -> dict[str, Any]:
    """A response of server-sent events, or, where asked for so, of ``model`` as JSON.

    Args:
        model: the answer without a stream.
        events: what the events carry; where None, nothing is promised of them but that their data are JSON.
    """
    content: dict[str, Any] = {"text/event-stream": {EVENTS: events or {}}}
    if model is not None:
        content["application/json"] = {EVENTS: {"": model}}
    return {"description": "OK", "content": content}
