"""What OpenAI's routes of chat, text and models answer, as models: their part of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.schemas import Usage


class ChatCompletion(BaseModel):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class TextCompletion(BaseModel):
    """OpenAI's completion of text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class ModelAnswer(BaseModel):
    """A served model; ``ready`` where a live worker takes jobs for it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    ready: bool
    state: Literal["loaded", "measuring", "loading", "served", "unserved"] = Field(
        description="On the worker that is farthest with it; `served`: not in memory, and loaded when asked for."
    )


class ModelList(BaseModel):
    """The served models."""

    object: Literal["list"]
    data: list[ModelAnswer]


class ModelPath(BaseModel):
    """A model's name in a path; it may have slashes."""

    model_id: Annotated[str, Field(description="A model's name.")]
