"""Every error as one JSON body, with the status and the headers that its row in the table says."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable
from http import HTTPStatus
from typing import NoReturn, get_type_hints

import structlog
from flask import Flask, Response, current_app, g, request
from gunicorn.http.errors import NoMoreData, ParseException
from pydantic import ValidationError
from redis.exceptions import RedisError, ResponseError
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from api.answers import answer
from api.http_worker import BodyLate
from api.limits import limit_headers
from api.services import services
from scheduler.errors import ClientError
from scheduler.measures import StorePart
from scheduler.request import invalid_request
from scheduler.round_trip import is_foreign
from scheduler.swap import STORE_ERRORS, says_away

_CODES = {
    405: "method_not_allowed",
    415: "unsupported_media_type",
}

log = structlog.get_logger(__name__)


def error_headers(error: ClientError) -> dict[str, str]:
    """What tells a client, the OpenAI one among them, whether and when to try again."""
    if error.retry_after is not None:
        return {"Retry-After": str(error.retry_after)} | limit_headers(error.numbers)
    if error.row.status == HTTPStatus.UNAUTHORIZED:
        return {"x-should-retry": "false", "WWW-Authenticate": "Bearer"}
    return {"x-should-retry": "false"}


def error_answer(error: ClientError) -> Response:
    """The error over HTTP."""
    return answer({"error": error.body()}, error.row.status, error_headers(error))


def store_unavailable() -> ClientError:
    """The queue's server does not answer."""
    return ClientError("store_unavailable", "the queue's server does not answer", retry_after=2)


def refuse_invalid(error: ValidationError) -> NoReturn:
    """What flask-openapi3 calls where a path, a query or a body does not validate."""
    raise invalid_request(error, _fields(error.title)) from None


def _fields(title: str) -> Iterable[str]:
    """The fields of what the present route asks for under a model's name."""
    view = current_app.view_functions.get(request.endpoint or "")
    asked = get_type_hints(inspect.unwrap(view)).values() if view is not None else ()
    return next((kind.model_fields for kind in asked if getattr(kind, "__name__", None) == title), ())


def install(app: Flask) -> None:
    """Answer every error of the application in the one form."""
    app.register_error_handler(ClientError, error_answer)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(NotFound, _no_route)
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    for broken in (ParseException, NoMoreData):
        app.register_error_handler(broken, _unreadable)
    for kind in STORE_ERRORS:
        app.register_error_handler(kind, _store_error)
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


def _too_large(_: RequestEntityTooLarge) -> Response:
    """A body, or a form with a file, which alone has a bound of its own."""
    settings = services().settings
    most, reason = (
        settings.max_body_bytes,
        "the body is over the {:,} bytes that are taken (TIDEGATE_MAX_BODY_BYTES)",
    )
    if request.max_content_length != current_app.config["MAX_CONTENT_LENGTH"]:
        most, reason = (
            settings.max_file_bytes,
            "the form is too large: files of {:,} bytes are taken (TIDEGATE_MAX_FILE_BYTES)",
        )
    return error_answer(ClientError("body_too_large", reason.format(most), limit_bytes=most))


def _unreadable(error: Exception) -> Response:
    """A body whose pieces are not framed as HTTP has them, which gunicorn finds when it is read; or one that is late."""
    framed = "the body is not framed as HTTP/1.1 has it"
    return error_answer(ClientError("invalid_request", str(error) if isinstance(error, BodyLate) else framed))


def _store_error(error: Exception) -> Response:
    if isinstance(error, ResponseError) and is_foreign(error):
        return _foreign(error)
    if isinstance(error, RedisError) and not says_away(error):
        return _bug(error)
    services().lifecycle.tally.count("store_failures", StorePart.REQUEST.value)
    log.warning("store unavailable", error=type(error).__name__)
    return error_answer(store_unavailable())


def _foreign(error: ResponseError) -> Response:
    """A key is of another type than this project's own."""
    log.warning("the queue's server holds what others wrote", error=str(error)[:200])
    return error_answer(ClientError("internal_error", "a key of the queue's server holds what others wrote"))


def _bug(error: Exception) -> Response:
    # The message may quote a prompt: the log gets the kind of error and where it was.
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("request failed", error=type(error).__name__, frames=frames[-8:], request=g.get("request_id"))
    return error_answer(ClientError("internal_error", "an internal error; its cause is in the server's log"))
