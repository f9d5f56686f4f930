"""What prompts are made of: the turns of a conversation, and how a chat template reads them. Pure."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

TextKind = Literal["text", "input_text", "output_text"]


class TextPart(BaseModel):
    """One piece of a message's content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: TextKind = "text"
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if value not in get_args(TextKind):
            raise ValueError("only text parts are taken")
        return value


_SAYS_SOMETHING: dict[str, Any] = {
    "anyOf": [
        {"required": ["content"], "properties": {"content": {"not": {"type": "null"}}}},
        {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}},
    ]
}
"""JSON Schema for what :meth:`Message._says_something` insists on."""


class Message(BaseModel):
    """One turn of a conversation; fields beyond these go to the chat template as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_SAYS_SOMETHING)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[TextPart, ...] | None = None
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise ValueError("a message needs content or tool_calls")
        return self

    @property
    def text(self) -> str:
        """The content as one string."""
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)

    def for_template(self) -> dict[str, Any]:
        """The message as a chat template reads it.

        ``developer`` is said as ``system``; the arguments of calls, which clients send as JSON, are what that means.
        """
        fields = self.model_dump(exclude_none=True)
        fields["content"] = self.text
        if self.tool_calls:
            fields["tool_calls"] = [_call_for_template(call) for call in fields["tool_calls"]]
        if self.role == "developer":
            fields["role"] = "system"
        return fields


def _call_for_template(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):  # the client's own words: left to the template
        return call
    known = arguments if isinstance(arguments, dict) else function["arguments"]
    return call | {"function": function | {"arguments": known}}
