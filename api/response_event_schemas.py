"""What the events of a response's stream carry, as models: the source of their part of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.response_schemas import ResponseAnswer
from api.spec import Events

Number = Annotated[int, Field(ge=0, description="From 0; what `starting_after` takes.")]


class ResponseMoved(BaseModel):
    """The response as it is at this moment."""

    type: str
    sequence_number: Number
    response: ResponseAnswer


class ItemChanged(BaseModel):
    """An item of the output begins, or is whole."""

    type: str
    sequence_number: Number
    output_index: int
    item: dict[str, Any]


class PieceSaid(BaseModel):
    """Something about an item's content: a piece of it, or all of it."""

    model_config = ConfigDict(extra="allow")

    type: str
    sequence_number: Number
    item_id: str
    output_index: int


class StreamFailed(BaseModel):
    """The stream breaks off, and not the response."""

    model_config = ConfigDict(extra="allow")

    type: Literal["error"]
    sequence_number: int
    message: str


_MOVES: Final = ("created", "queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
_SAID: Final = ("output_text", "reasoning_text", "function_call_arguments")

RESPONSE_EVENTS: Final[Events] = {
    **{f"response.{move}": ResponseMoved for move in _MOVES},
    **{f"response.output_item.{end}": ItemChanged for end in ("added", "done")},
    **{f"response.content_part.{end}": PieceSaid for end in ("added", "done")},
    **{f"response.{part}.{end}": PieceSaid for part in _SAID for end in ("delta", "done")},
    "error": StreamFailed,
}
