"""What a request's JSON Schema says beyond its fields: what the validators insist on, as far as a schema can. Pure."""

from __future__ import annotations

from typing import Any

_ONE_INPUT: list[dict[str, Any]] = [
    {
        "required": ["prompt"],
        "properties": {"prompt": {"type": "string"}, "messages": {"type": "null"}, "tools": {"type": "null"}},
    },
    {
        "required": ["messages"],
        "properties": {"messages": {"type": "array"}, "prompt": {"type": "null"}},
    },
]

_NAMED_TOOL: dict[str, Any] = {
    "required": ["function"],
    "properties": {
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "parameters": {"type": ["object", "null"]},
            },
        }
    },
}
_TOOLS_TO_CALL: dict[str, Any] = {
    "if": {
        "required": ["tool_choice"],
        "properties": {"tool_choice": {"not": {"enum": ["none", "auto", None]}}},
    },
    "then": {
        "required": ["tools"],
        "properties": {"tools": {"type": "array", "minItems": 1, "items": _NAMED_TOOL}},
    },
}
"""JSON Schema for what a tool that must be called has to have, as far as it can say it."""


def as_it_validates(schema: dict[str, Any]) -> None:
    """Say in a request's JSON Schema what its validators do: null says nothing, and there is one input."""
    for name, field in schema["properties"].items():
        kinds = field.get("anyOf", [field])
        if name not in schema["required"] and {"type": "null"} not in kinds:
            about = {key: field.pop(key) for key in ("default", "description") if key in field}
            schema["properties"][name] = {"anyOf": [*kinds, {"type": "null"}]} | about
    schema |= {"oneOf": _ONE_INPUT, **_TOOLS_TO_CALL}
