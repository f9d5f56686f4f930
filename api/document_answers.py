"""What can come back from a route: its statuses, those of errors among them, with their headers."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from api.document_routes import Route
from api.once import KEY_HEADER, REPLAYED
from scheduler.errors import RETRY_AFTER_MAX_SECONDS, RETRY_AFTER_MIN_SECONDS, TABLE

_SECONDS: Final = {"type": "integer", "minimum": RETRY_AFTER_MIN_SECONDS, "maximum": RETRY_AFTER_MAX_SECONDS}

HEADERS: Final[dict[str, dict[str, Any]]] = {
    "x-request-id": {
        "description": "The request's name in the server's log.",
        "schema": {"type": "string"},
        "required": True,
    },
    "Retry-After": {
        "description": "Seconds until it is worth asking again.",
        "schema": _SECONDS,
        "required": True,
    },
    "x-should-retry": {
        "description": "Trying again does not help.",
        "schema": {"type": "string", "enum": ["false"]},
        "required": True,
    },
    "Look-After": {
        "description": "Seconds until it is worth looking again; nothing once the job ended.",
        "schema": _SECONDS,
    },
    "Location": {
        "description": "Where the job is.",
        "schema": {"type": "string", "pattern": "^/v1/jobs/job_[0-9a-z]{26}$"},
        "required": True,
    },
    "Preference-Applied": {
        "description": "The wait that `Prefer` asked for, as it was granted.",
        "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
    },
    "WWW-Authenticate": {
        "description": "A key is needed.",
        "schema": {"type": "string", "enum": ["Bearer"]},
        "required": True,
    },
    "Allow": {
        "description": "The methods that the path has.",
        "schema": {"type": "string"},
        "required": True,
    },
    "Content-Disposition": {
        "description": "A name to save the file under.",
        "schema": {"type": "string"},
        "required": True,
    },
    "x-ratelimit-limit-tokens": {"description": "The key's tokens a minute.", "schema": {"type": "integer"}},
    "x-ratelimit-remaining-tokens": {"description": "Those that are left.", "schema": {"type": "integer"}},
    "x-ratelimit-reset-tokens": {
        "description": "When all are there again.",
        "schema": {"type": "string", "pattern": "^[0-9.]+s$"},
    },
    **{
        name: {
            "description": "The answer is about the job that an earlier request with the same key, or an earlier try, made.",
            "schema": {"type": "string", "enum": [value]},
        }
        for name, value in REPLAYED.items()
    },
}
"""Every header of answers that clients need, by its component's name."""

_NAMES: Final = {"Look-After": "Retry-After"}
"""Headers whose component has another name: the same header, promised less."""

_HINT: Final = "Retry-After"
_LIMITS: Final = tuple(name for name in HEADERS if name.startswith("x-ratelimit-"))
_ONCE_ONLY: Final = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/batches")

SAID: Final[dict[tuple[str, str], dict[int, tuple[str, ...]]]] = {
    ("POST", "/v1/jobs"): {
        200: ("Location", "Preference-Applied", *REPLAYED),
        202: ("Location", "Preference-Applied", _HINT, *REPLAYED),
    },
    ("GET", "/v1/jobs/{job_id}"): {200: ("Look-After",)},
    ("GET", "/v1/jobs/{job_id}/result"): {202: (_HINT,)},
    ("POST", "/v1/jobs/{job_id}/cancel"): {202: (_HINT,)},
    ("POST", "/v1/jobs/{job_id}/retry"): {
        200: ("Location", *REPLAYED),
        202: ("Location", _HINT, *REPLAYED),
    },
    ("GET", "/v1/files/{file_id}/content"): {200: ("Content-Disposition",)},
    **{("POST", path): {200: tuple(REPLAYED)} for path in _ONCE_ONLY},
}
"""The headers of answers that are no errors, beside what every answer of their method has."""

_ONCE: Final[dict[str, Any]] = {
    "name": KEY_HEADER,
    "in": "header",
    "required": False,
    "description": "For a day, the same key from the same caller with the same body answers with what was made first.",
    "schema": {
        "type": "string",
        "pattern": "^[!-~]([ -~]{0,253}[!-~])?$",
    },  # servers drop spaces around a value
    "example": "order-4711",
}

_LAST: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The number of the newest event seen: the stream goes on after it.",
    "schema": {"type": "string", "pattern": "^[0-9]{0,18}$"},
    "example": "7",
}

SENT: Final[dict[tuple[str, str], tuple[dict[str, Any], ...]]] = {
    ("POST", "/v1/jobs"): (
        _ONCE,
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "description": "`wait=N` holds the answer until the job ended, at most N seconds (60 at most); "
            "what else it says is let be.",
            "schema": {"type": "string"},
            "example": "wait=20",
        },
    ),
    ("POST", "/v1/jobs/{job_id}/retry"): (_ONCE,),
    ("GET", "/v1/jobs/{job_id}/stream"): (_LAST,),
    ("GET", "/v1/tide/stream"): (_LAST,),
    **{("POST", path): (_ONCE,) for path in _ONCE_ONLY},
}
"""Request headers, which no model of a route declares."""


def headers(names: tuple[str, ...] = ()) -> dict[str, Any]:
    """References to what an answer says in its headers."""
    return {
        _NAMES.get(name, name): {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)
    }


def said_by(route: Route, status: int) -> tuple[str, ...]:
    """The headers of a route's answer that is no error, beside what every answer has."""
    limits = _LIMITS if route.is_ours and route.method == "POST" else ()
    return (*SAID.get((route.method, route.path), {}).get(status, ()), *limits)


def errors_of(route: Route) -> set[int]:
    """The statuses of the errors that a route can end with, each of which has a row in the table of errors."""
    found = {500} | {status for status in route.answers if status >= HTTPStatus.BAD_REQUEST}
    if route.is_ours or route.path == "/readyz":
        found.add(503)
    if route.is_ours:
        found |= {400, 401, 403}
    if "path" in route.takes:
        found.add(404)
    if {"body", "form"} & set(route.takes):
        found |= {404, 413, 415}
    if route.path.endswith("/retry"):
        found.add(413)
    if route.is_ours and route.method == "POST":
        found.add(429)
    if takes_once(route):
        found.add(422)
    if (route.method == "POST" and route.streams) or route.path.endswith("/result"):
        found |= {409, 413, 504}  # as a job ended
    return found


def takes_once(route: Route) -> bool:
    """Whether a repeated request is known for one."""
    return _ONCE in SENT.get((route.method, route.path), ())


def error_answers(error: dict[str, Any]) -> dict[str, Any]:
    """Each status of the table of errors as a component, under :func:`error_name`.

    Args:
        error: a reference to the body of errors.
    """
    made = {}
    for status in sorted({row.status for row in TABLE.values()}):
        codes = [code for code, row in TABLE.items() if row.status == status]
        retryable = {TABLE[code].retryable for code in codes}
        said: dict[bool, tuple[str, ...]] = {True: ("Retry-After",), False: ("x-should-retry",)}
        names = said[retryable.pop()] if len(retryable) == 1 else ()
        more: dict[HTTPStatus, tuple[str, ...]] = {
            HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
            HTTPStatus.METHOD_NOT_ALLOWED: ("Allow",),
            HTTPStatus.TOO_MANY_REQUESTS: _LIMITS,
        }
        names += more.get(HTTPStatus(status), ())
        detail = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
        made[error_name(status)] = {
            "description": ", ".join(f"`{code}`" for code in codes),
            "headers": headers(names),
            "content": {
                "application/json": {"schema": {"allOf": [error, {"properties": {"error": detail}}]}}
            },
        }
    return made


def error_name(status: int) -> str:
    """The component's name of an error's answers: ``NotFound``, ``ServiceUnavailable``."""
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")
