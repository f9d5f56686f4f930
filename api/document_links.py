"""How routes lead to each other: a new thing's id is what the paths below its own take."""

from __future__ import annotations

import re
from typing import Any, Final

from api.document_routes import Content, Route

_ITEM: Final = re.compile(r"/\{([^{}]+)\}(?:/[^{}]+)?")
"""What follows a collection's path in its items' paths."""


_ID: Final = "$response.body#/id"

_BODIES: Final[dict[tuple[str, str], tuple[str, str, dict[str, Any]]]] = {
    ("POST", "/v1/files"): (
        "POST",
        "/v1/batches",
        {"input_file_id": _ID, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    )
}
"""Ids that are taken in a body: whose answer has it, and which route takes it there."""


def links(route: Route, contents: tuple[Content, ...], known: list[Route]) -> dict[str, Any]:
    """The links of an answer about a new thing, to all that can be done with it.

    Args:
        route: whose answer it is.
        contents: what it has.
        known: every route.
    """
    fields = {name for content in contents if content.model for name in content.model.model_fields}
    if route.method != "POST" or "id" not in fields:
        return {}
    made: dict[str, Any] = {}
    for other in known:
        below = _ITEM.fullmatch(other.path.removeprefix(route.path))
        if below is not None and other.path.startswith(route.path):
            made[other.name] = {"operationId": other.name, "parameters": {below[1]: _ID}}
    method, path, body = _BODIES.get((route.method, route.path), ("", "", {}))
    for other in known:
        if (other.method, other.path) == (method, path):
            made[other.name] = {"operationId": other.name, "requestBody": body}
    return made
