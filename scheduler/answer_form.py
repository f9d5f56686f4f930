"""What form a request may ask its answer to have: `response_format` and `tool_choice`, in the words of OpenAI's chat."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator, with_config
from typing_extensions import TypedDict

MAX_SCHEMA_BYTES: Final = 128 << 10
"""The largest JSON schema, in bytes of JSON; OpenAI takes 120,000 characters of names and constants."""

_NAME: Final = r"^[a-zA-Z0-9_-]{1,64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@with_config(ConfigDict(extra="forbid"))
class NamedSchema(TypedDict):
    """A JSON schema and what it is called; where none is given, any object is.

    ``strict`` refuses a schema with keywords that cannot be imposed; otherwise those are let be.
    """

    name: Annotated[str, Field(pattern=_NAME)]
    description: NotRequired[Annotated[str, Field(max_length=4096)] | None]
    schema: NotRequired[dict[str, Any] | None]
    strict: NotRequired[Annotated[bool, Strict()] | None]


_SCHEMA_WITH_ITS_TYPE: Final[dict[str, Any]] = {
    "if": {"properties": {"type": {"const": "json_schema"}}},
    "then": {"required": ["json_schema"], "properties": {"json_schema": {"type": "object"}}},
    "else": {"properties": {"json_schema": {"type": "null"}}},
}
"""JSON Schema for what :meth:`ResponseFormat._has_its_schema` insists on."""


class ResponseFormat(_Strict):
    """Text as it comes, any JSON object, or JSON of a schema."""

    model_config = ConfigDict(json_schema_extra=_SCHEMA_WITH_ITS_TYPE)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @field_validator("json_schema")
    @classmethod
    def _is_small(cls, value: NamedSchema | None) -> NamedSchema | None:
        if value is not None and (size := len(json.dumps(value.get("schema")))) > MAX_SCHEMA_BYTES:
            raise ValueError(f"the schema is {size:,} bytes; at most {MAX_SCHEMA_BYTES:,} are taken")
        return value

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and only with it")
        return self

    @property
    def schema_imposed(self) -> dict[str, Any] | None:
        """What the answer must be; None where it may be anything."""
        if self.type == "text":
            return None
        schema = self.json_schema.get("schema") if self.json_schema is not None else None
        return {"type": "object"} if schema is None else schema

    @property
    def strict(self) -> bool:
        """Whether a schema must be imposed to the last keyword."""
        return self.json_schema is not None and bool(self.json_schema.get("strict"))


class FunctionName(_Strict):
    """A function's name."""

    name: Annotated[str, Field(min_length=1, max_length=256)]


class NamedTool(_Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool
"""Whether the model may, may not or must call tools, or which."""


def tool_name(tool: dict[str, Any]) -> str | None:
    """The name of a tool's function, where it has one."""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
