"""Every error as one JSON body, with the status and the headers that its row in the table says."""

from __future__ import annotations

import traceback
from http import HTTPStatus
from typing import NoReturn

import structlog
from flask import Flask, Response, g, request
from pydantic import ValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError
from werkzeug.exceptions import HTTPException, NotFound

from api.answers import answer
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.request import invalid_request

_CODES = {
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}

log = structlog.get_logger(__name__)


def error_headers(error: ClientError) -> dict[str, str]:
    """What tells a client, the OpenAI one among them, whether and when to try again."""
    if error.retry_after is not None:
        return {"Retry-After": str(error.retry_after)}
    return {"x-should-retry": "false"}


def error_answer(error: ClientError) -> Response:
    """The error over HTTP."""
    return answer({"error": error.body()}, error.row.status, error_headers(error))


def store_unavailable() -> ClientError:
    """The queue's server does not answer."""
    return ClientError("store_unavailable", "the queue's server does not answer", retry_after=2)


def refuse_invalid(error: ValidationError) -> NoReturn:
    """What flask-openapi3 calls where a path, a query or a body does not validate."""
    raise invalid_request(error) from None


def install(app: Flask) -> None:
    """Answer every error of the application in the one form."""
    app.register_error_handler(ClientError, error_answer)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(NotFound, _no_route)
    for kind in (StoreUnavailable, RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError):
        app.register_error_handler(kind, lambda error: error_answer(_store_error(error)))
    app.register_error_handler(Exception, _bug)


def _http_error(error: HTTPException) -> Response:
    """What Flask and Werkzeug refuse by themselves: methods, broken requests."""
    status = error.code or 500
    if status < HTTPStatus.BAD_REQUEST:
        return Response(error.get_response().get_data(), status, error.get_headers())
    code = _CODES.get(status) or (
        "invalid_request" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "internal_error"
    )
    said = error_answer(ClientError(code, error.description or error.name))
    if "valid_methods" in vars(error):
        said.headers["Allow"] = ", ".join(sorted(vars(error)["valid_methods"] or ()))
    return said


def _no_route(_: NotFound) -> Response:
    """Only routing raises it: what a route does not find is a `ClientError`."""
    return error_answer(ClientError("not_found", f"no such route: {request.method} {request.path[:256]}"))


def _store_error(error: Exception) -> ClientError:
    log.warning("store unavailable", error=type(error).__name__)
    return store_unavailable()


def _bug(error: Exception) -> Response:
    # The message may quote a prompt: the log gets the kind of error and where it was.
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("request failed", error=type(error).__name__, frames=frames[-8:], request=g.get("request_id"))
    return error_answer(ClientError("internal_error", "an internal error; its cause is in the server's log"))
