"""Parts of the OpenAPI document that many routes share."""

from __future__ import annotations

from typing import Any, Final

from flask_openapi3.models.info import Info
from flask_openapi3.types import ResponseDict
from pydantic import BaseModel

from api.schemas import ErrorAnswer

INFO: Final = Info(
    title="tidegate",
    version="1",
    description="A memory-aware job queue with admission control for MLX text generation.",
)

ERRORS: Final[ResponseDict] = {"400": ErrorAnswer, "4XX": ErrorAnswer, "5XX": ErrorAnswer}


def streams(model: type[BaseModel] | None = None) -> dict[str, Any]:
    """A response of server-sent events, or, where asked for so, of ``model`` as JSON."""
    content: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}
    if model is not None:
        content["application/json"] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"description": "OK", "content": content}
