"""The OpenAPI document, made of the application's routes and of the models that validate and answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from flask_openapi3.openapi import OpenAPI

from api.document_answers import HEADERS, SENT, error_answers, error_name, errors_of, headers, said_by
from api.document_examples import ANSWERS, REQUESTS
from api.document_links import links
from api.document_routes import Content, Route, routes
from api.document_schemas import Schemas, models_of, parameters
from api.document_webhooks import webhooks
from api.schemas import ErrorAnswer, WebhookEvent
from api.spec import INFO

VERSION: Final = "3.1.1"
KEY: Final = "key"

_TAGS: Final = {
    "jobs": "The queue, under its own names.",
    "openai": "The same queue under OpenAI's names; its clients work unchanged.",
    "capacity": "Who could run what.",
    "server": "The server itself; no key is needed.",
}


def document(app: OpenAPI) -> dict[str, Any]:
    """An application's document.

    Raises:
        LookupError: a route answers with a model that its module does not import.
    """
    known = list(routes(app, app.paths))
    schemas = Schemas(
        [model for route in known for model in route.takes.values()],
        [ErrorAnswer, WebhookEvent, *(model for route in known for model in _answered(route))],
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in known:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known, schemas)
    sent = webhooks(schemas)
    shared = {
        "responses": error_answers(schemas.answered(ErrorAnswer)),
        "headers": HEADERS,
        "securitySchemes": {
            KEY: {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key. Without keys the API answers this machine alone, and a token, if there "
                "is one, only names whose share of the queue a job counts against.",
            }
        },
    }
    return {
        "openapi": VERSION,
        "info": INFO.model_dump(exclude_none=True),
        "security": security(needed=False),
        "tags": [
            {"name": name, "description": words}
            for name, words in _TAGS.items()
            if any(name in route.tags for route in known)
        ],
        "paths": paths,
        "webhooks": sent,
        "components": {"schemas": schemas.used_by([paths, sent, shared]), **shared},
    }


def security(*, needed: bool) -> list[dict[str, list[str]]]:
    """That a key is needed, or that requests go without one too."""
    return [{KEY: []}] if needed else [{KEY: []}, {}]


def _answered(route: Route) -> list[Any]:
    found: list[Any] = []
    for content in (content for said in route.answers.values() for content in said):
        found += [content.model] if content.model else models_of(content.events or {})
    return found


def _operation(route: Route, known: list[Route], schemas: Schemas) -> dict[str, Any]:
    made: dict[str, Any] = {"operationId": route.name, "summary": route.summary}
    if route.description:
        made["description"] = route.description
    made["tags"] = list(route.tags)
    if not route.is_ours:
        made["security"] = []
    said = [
        each
        for place in ("path", "query")
        if place in route.takes
        for each in parameters(schemas, route.takes[place], place)
    ]
    said += SENT.get((route.method, route.path), ())
    if said:
        made["parameters"] = said
    if (body := _body(route, schemas)) is not None:
        made["requestBody"] = body
    made["responses"] = {
        str(status): _response(route, status, contents, known, schemas)
        for status, contents in sorted(route.answers.items())
        if status < HTTPStatus.BAD_REQUEST
    } | {
        str(status): {"$ref": f"#/components/responses/{error_name(status)}"}
        for status in sorted(errors_of(route))
    }
    return made


def _body(route: Route, schemas: Schemas) -> dict[str, Any] | None:
    for place, kind in (("body", "application/json"), ("form", "multipart/form-data")):
        if place in route.takes:
            content: dict[str, Any] = {"schema": schemas.taken(route.takes[place])}
            if (examples := REQUESTS.get((route.method, route.path))) is not None:
                content["examples"] = {name: {"value": value} for name, value in examples.items()}
            return {"required": True, "content": {kind: content}}
    return None


def _response(
    route: Route, status: int, contents: tuple[Content, ...], known: list[Route], schemas: Schemas
) -> dict[str, Any]:
    said = headers(said_by(route, status))
    made: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": said}
    if contents:
        made["content"] = {content.media_type: _content(content, schemas) for content in contents}
        example = ANSWERS.get((route.method, route.path, status))
        if example is not None:
            made["content"]["application/json"]["examples"] = {"answer": {"value": example}}
    if found := links(route, contents, known):
        made["links"] = found
    return made


def _content(content: Content, schemas: Schemas) -> dict[str, Any]:
    if content.model is not None:
        return {"schema": schemas.answered(content.model)}
    if content.events is not None:
        return {"schema": schemas.event(content.events)}
    return {"schema": content.schema or {}}
