"""`/openapi.json`, and `/docs`: the same document as one page for people, without a script and with nothing to load."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from typing import Any, Final

from flask import Response, current_app, render_template, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from markupsafe import Markup, escape

from api.answers import answer
from api.docs_words import prose, type_words
from api.document import security
from api.gate import asks_for_keys

STYLE: Final = (
    "body{margin:0;display:flex;font:16px/1.5 system-ui,sans-serif;color:#1b1f24;background:#fff}"
    "nav{box-sizing:border-box;width:22em;height:100vh;position:sticky;top:0;overflow:auto;padding:1em;"
    "font-size:.85em;background:#f4f6f8;flex:none}nav ul{list-style:none;padding:0}nav a{overflow-wrap:anywhere}"
    "main{padding:1em 2em;max-width:60em;min-width:0}h2{margin-top:2em}nav h2{margin:1em 0 0;font-size:1em}"
    "article{border-top:1px solid #d5dbe1;padding-bottom:1em}h3{font-family:ui-monospace,monospace}"
    "a{color:#0b5cad;text-decoration:none}a:hover{text-decoration:underline}"
    "table{border-collapse:collapse;margin:.5em 0;width:100%}caption{text-align:left;font-weight:600}"
    "th,td{text-align:left;vertical-align:top;padding:.2em .8em .2em 0;border-top:1px solid #e6eaee}"
    "code,pre{font:.9em ui-monospace,monospace;background:#f4f6f8}pre{padding:.8em;overflow:auto}"
    "figure{margin:.5em 0}.GET{color:#1a7f37}.POST{color:#0b5cad}.DELETE{color:#b42318}"
    "@media(max-width:50em){body{display:block}nav{width:auto;height:auto;position:static}}"
    "@media(prefers-color-scheme:dark){body{color:#d7dde3;background:#14181c}nav,code,pre{background:#1d2329}"
    "a,.POST{color:#6cb2f7}.GET{color:#56c271}.DELETE{color:#f48a80}th,td,article{border-color:#2c343c}}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""This one style, and nothing else that a page could do."""

_JSON: Final[dict[str, Any]] = {
    "description": "OK",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
_PAGE: Final[dict[str, Any]] = {"description": "OK", "content": {"text/html": {"schema": {"type": "string"}}}}

routes = APIBlueprint("docs", __name__, abp_tags=[Tag(name="server")])


@routes.get("/openapi.json", responses={200: _JSON})
def openapi() -> Response:
    """Get this document."""
    return answer(_document())


@routes.get("/docs", responses={200: _PAGE})
def page() -> Response:
    """Read this document as a page."""
    shown = render_template("docs.html", style=Markup(STYLE), **_view(_document(), request.url_root))  # noqa: S704 (ours)
    return Response(shown, headers={"Content-Security-Policy": POLICY}, mimetype="text/html")


def _document() -> dict[str, Any]:
    """The document, as it is true of this server today: whether it asks for keys is its operator's."""
    found: dict[str, Any] = current_app.api_doc  # type: ignore[attr-defined]
    return found | {"security": security(needed=asks_for_keys() is True)}


def _view(document: dict[str, Any], root: str) -> dict[str, Any]:
    """A document as the template shows it.

    Args:
        document: all of it.
        root: the server's address, for the examples.
    """
    operations = [
        _operation(document, path, method, each, root)
        for path, item in (*document["paths"].items(), *document["webhooks"].items())
        for method, each in item.items()
    ]
    return {
        "title": document["info"]["title"],
        "description": prose(document["info"]["description"]),
        "tags": [
            {
                "name": tag["name"],
                "description": tag["description"],
                "operations": [each for each in operations if tag["name"] in each["tags"]],
            }
            for tag in document["tags"]
        ],
        "schemas": [_schema(name, each) for name, each in document["components"]["schemas"].items()],
    }


def _operation(
    document: dict[str, Any], path: str, method: str, operation: dict[str, Any], root: str
) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {})
    answers = {status: _resolved(document, said) for status, said in sorted(operation["responses"].items())}
    examples = [
        {"name": name, "command": _command(root, method, path, kind, example["value"])}
        for kind, said in body.items()
        for name, example in said.get("examples", {}).items()
    ]
    return {
        "id": operation["operationId"],
        "tags": operation["tags"],
        "method": method.upper(),
        "path": path,
        "summary": prose(operation["summary"], inline=True),
        "description": prose(operation.get("description", "")),
        "parameters": [
            {
                "name": said["name"],
                "place": said["in"],
                "required": said["required"],
                "type": type_words(said["schema"]),
                "description": prose(said.get("description", ""), inline=True),
            }
            for said in operation.get("parameters", ())
        ],
        "body": _contents(body),
        "examples": examples,
        "answers": [
            {
                "status": status,
                "body": _contents(said.get("content", {}))
                if status < "400"
                else prose(said["description"], inline=True),
                "headers": list(said["headers"]),
            }
            for status, said in answers.items()
        ],
        "events": [
            {"name": each["title"], "data": _carried(each["properties"]["data"])}
            for said in answers.values()
            for each in said.get("content", {})
            .get("text/event-stream", {})
            .get("schema", {})
            .get("anyOf", ())
            if "title" in each
        ],
    }


def _carried(data: dict[str, Any]) -> Markup:
    """What an event's data are."""
    return type_words(data.get("contentSchema", data))


def _schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    needed = schema.get("required", ())
    return {
        "name": name,
        "description": prose(schema.get("description", "")),
        "type": type_words(schema),
        "fields": [
            {
                "name": field,
                "required": field in needed,
                "type": type_words(said),
                "description": prose(said.get("description", ""), inline=True),
            }
            for field, said in schema.get("properties", {}).items()
        ],
    }


def _contents(content: dict[str, Any]) -> Markup:
    """What a body is, by media type."""
    shown = [
        Markup("{} <small>{}</small>").format(
            "events" if kind == "text/event-stream" else type_words(said["schema"]), escape(kind)
        )
        for kind, said in content.items()
    ]
    return Markup(", ").join(shown)


def _command(root: str, method: str, path: str, kind: str, value: Any) -> str:
    """A request as it is typed."""
    said = shlex.quote(json.dumps(value, indent=2))
    return (
        f"curl -X {method.upper()} {shlex.quote(root.rstrip('/') + path)} -H 'Content-Type: {kind}' -d {said}"
    )


def _resolved(document: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    name = response.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = document["components"]["responses"][name] if name else response
    return found
