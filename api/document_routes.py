"""The application's routes as the OpenAPI document needs them: what each takes, answers, and says of itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, get_type_hints

from flask import Flask
from flask_openapi3.models.media_type import MediaType
from flask_openapi3.models.operation import Operation
from flask_openapi3.models.path_item import PathItem
from pydantic import BaseModel

from api.schemas import ErrorAnswer
from api.spec import EVENTS, Events

Model = type[BaseModel]

_PLACES: Final = ("path", "query")
_VARIABLE: Final = re.compile(r"<(?:[^<:>]+:)?([^<>]+)>")
_REF: Final = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Content:
    """An answer of one media type: a model's, a stream's events, or a schema as the route gave it."""

    media_type: str
    model: Model | None = None
    events: Events | None = None
    schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    name: str
    tags: tuple[str, ...]
    words: str
    takes: dict[str, Model]
    """By where it is in a request: ``path``, ``query``, ``form`` or ``body``."""
    answers: dict[int, tuple[Content, ...]]
    """By status; an error's stands there where the route has it by its own number."""

    @property
    def is_ours(self) -> bool:
        """Whether keys guard it and a queue answers it."""
        return self.path.startswith(("/v1/", "/metrics"))

    @property
    def streams(self) -> bool:
        """Whether it can answer with events."""
        return any(content.events is not None for said in self.answers.values() for content in said)

    @property
    def summary(self) -> str:
        """Its first line."""
        return self.words.partition("\n")[0].strip()

    @property
    def description(self) -> str:
        """What follows."""
        return self.words.partition("\n")[2].strip()


def routes(app: Flask, described: dict[str, PathItem]) -> Iterator[Route]:
    """Every described route of an application, in the order of paths.

    Args:
        app: the application.
        described: by path, what flask-openapi3 collected.

    Raises:
        LookupError: a route's model is not to be found under its name.
    """
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        path = _VARIABLE.sub(r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            operation: Operation | None = getattr(described.get(path), method.lower(), None)
            if operation is not None:
                function = inspect.unwrap(app.view_functions[rule.endpoint])
                yield _route(method, path, rule.endpoint, function, operation)


def _route(
    method: str, path: str, endpoint: str, function: Callable[..., Any], operation: Operation
) -> Route:
    hints = get_type_hints(function)
    answers = {
        int(status): tuple(_content(kind, said, function) for kind, said in (response.content or {}).items())
        for status, response in (operation.responses or {}).items()
        if status.isdigit()
    }
    return Route(
        method=method,
        path=path,
        name=endpoint.replace(".", "_"),
        tags=tuple(operation.tags or ()),
        words=inspect.getdoc(function) or "",
        takes={place: hints[place] for place in (*_PLACES, "form", "body") if place in hints},
        answers=answers,
    )


def _content(kind: str, said: MediaType, function: Callable[..., Any]) -> Content:
    given: Any = (said.model_extra or {}).get(EVENTS)
    if given is not None:
        return Content(kind, model=given[""]) if "" in given else Content(kind, events=given)
    schema = said.media_type_schema
    found: dict[str, Any] = (
        schema.model_dump(by_alias=True, exclude_unset=True, mode="json") if schema else {}
    )
    ref = str(found.get("$ref", ""))
    if ref.startswith(_REF):
        return Content(kind, model=_model(ref.removeprefix(_REF), function))
    return Content(kind, schema=found)


def _model(name: str, function: Callable[..., Any]) -> Model:
    """The model of a name: flask-openapi3 keeps a schema of it that has lost what it does not know."""
    if name == ErrorAnswer.__name__:
        return ErrorAnswer
    for value in function.__globals__.values():
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__name__ == name:
            return value
    raise LookupError(
        f"{function.__module__}.{function.__name__} answers with {name}, which it does not import"
    )
