"""The application, made by :func:`create_app`; importing this does nothing else."""

from __future__ import annotations

import logging
import secrets
from typing import Final

import structlog
from flask import Response, g
from flask_openapi3.openapi import OpenAPI
from redis import Redis

from api import capacity, chat, errors, health, job_stream, jobs, models
from api.answers import answer
from api.json_body import JsonRequest
from api.reader import Reader
from api.schemas import ErrorAnswer
from api.services import EXTENSION, Services
from api.spec import INFO
from api.store import connect
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings, load

_HEADERS: Final = tuple(
    (name, name.lower(), value)
    for name, value in {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
    }.items()
)


class Application(OpenAPI):
    """Flask with an OpenAPI document, whose requests have strict JSON."""

    request_class = JsonRequest


def create_app(settings: Settings | None = None, connection: Redis | None = None) -> Application:
    """Make the application.

    Nothing is connected yet; each process makes its own, after the fork.

    Args:
        settings: the environment's where None.
        connection: a client that answers bytes; one to the settings' server where None.

    Raises:
        SettingsInvalid: a variable of the environment has a value that cannot be used.
    """
    if settings is None:  # a server's own process, whose log this is
        settings = load()
        level = logging.getLevelNamesMapping()[settings.log_level.upper()]
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    connection = connection or connect(settings)
    app = Application(
        __name__,
        info=INFO,
        doc_ui=False,
        validation_error_status=400,
        validation_error_model=ErrorAnswer,
        validation_error_callback=errors.refuse_invalid,
        static_folder=None,
    )
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1  # the first length that is refused
    app.extensions[EXTENSION] = Services(settings, Lifecycle(connection, settings), Reader(connection))
    for room in (jobs, job_stream, capacity, chat, models):
        app.register_api(room.routes)
    app.register_blueprint(health.routes)
    app.add_url_rule("/openapi.json", "openapi", lambda: answer(app.api_doc))
    app.before_request(_name_request)
    app.after_request(_finish)
    errors.install(app)
    return app


def _name_request() -> None:
    g.request_id = f"req_{secrets.token_hex(12)}"


def _finish(response: Response) -> Response:
    said = {name.lower() for name, _ in response.headers}
    for name, lowered, value in _HEADERS:
        if lowered not in said:
            response.headers.add(name, value)
    if "x-request-id" not in said:
        response.headers.add("x-request-id", g.get("request_id", ""))
    return response
