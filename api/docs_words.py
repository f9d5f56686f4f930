"""The words of `/docs`: prose with code in it, and what a schema says of a value, as HTML."""

from __future__ import annotations

import re
from typing import Any, Final

from markupsafe import Markup, escape

_CODE: Final = re.compile(r"`([^`]+)`")
_LIMITS: Final = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
    "pattern": "{}",
}


def prose(text: str, *, inline: bool = False) -> Markup:
    """Paragraphs, whose words in backticks are code.

    Args:
        text: plain, with an empty line between paragraphs.
        inline: whether it is to stand inside one.
    """
    said = _CODE.sub(r"<code>\1</code>", str(escape(text)))
    if inline or not said:
        return Markup(said)  # noqa: S704 (escaped above)
    return Markup("".join(f"<p>{part}</p>" for part in said.split("\n\n")))  # noqa: S704 (likewise)


def type_words(schema: dict[str, Any] | bool) -> Markup:
    """What a value is: its type, what limits it, a link where it has a schema by name."""
    if not isinstance(schema, dict):
        return Markup("anything")
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds and "properties" not in schema:
        return Markup(" or ").join(dict.fromkeys(type_words(kind) for kind in kinds)) + _limits(schema)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return Markup(" or ").join(Markup("<code>{}</code>").format(_shown(value)) for value in values)
    return _typed(schema) + _limits(schema)


def _typed(schema: dict[str, Any]) -> Markup:
    kind = schema.get("type", "anything")
    if kind == "array":
        return Markup("list of {}").format(type_words(schema.get("items", {})))
    if kind == "object" and isinstance(values := schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(type_words(values))
    return escape(" or ".join(kind) if isinstance(kind, list) else kind)


def _limits(schema: dict[str, Any]) -> Markup:
    said = [words.format(schema[name]) for name, words in _LIMITS.items() if name in schema]
    if schema.get("default") is not None:
        said.append(f"default {_shown(schema['default'])}")
    return Markup(" <small>({})</small>").format(", ".join(said)) if said else Markup("")


def _shown(value: Any) -> str:
    """A value as JSON has it."""
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value)) if _plain(value) else str(value)
    )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool)
