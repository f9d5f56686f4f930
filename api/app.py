"""The application, made by :func:`create_app`; importing this does nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, Final

from flask import Response, g, request
from flask_openapi3.openapi import OpenAPI
from redis import Redis

from api import (
    batches,
    capacity,
    chat,
    completions,
    cors,
    crowd,
    docs_page,
    errors,
    files,
    gate,
    health,
    job_stream,
    jobs,
    limits,
    metering,
    metrics,
    models,
    page,
    responses,
    staying,
    tide,
    traced,
)
from api.batch_endpoints import ENDPOINTS
from api.document import document
from api.schemas import ErrorAnswer
from api.services import EXTENSION, Services, make_services
from api.spec import INFO
from api.store import connect
from api.upload import UploadRequest
from scheduler import process_log
from scheduler.errors import ClientError
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

    request_class = UploadRequest

    def begin(self) -> None:
        """A server's process begins to serve: batches and webhooks that another left under way go on."""
        self._services.feeder.wake()
        self._services.sender.start()

    def listen_on(self, hosts: Iterable[str]) -> None:
        """Take note of the addresses that the server listens on.

        Raises:
            SettingsInvalid: these may not be without API keys, and there are none.
        """
        gate.listen_on(self, hosts)

    def end(self) -> None:
        """A server's process ends.

        Webhooks that it has not sent, and batches that it fed, are another's at once; who watches the tide comes back.
        """
        self._services.tide.close()
        self._services.sender.close()
        self._services.feeder.close()
        traced.close(self._services.lifecycle)

    @property
    def _services(self) -> Services:
        found: Services = self.extensions[EXTENSION]
        return found

    @property
    def api_doc(self) -> dict[str, Any]:
        """The document, made when it is first asked for."""
        if not self.spec_json:
            self.spec_json = document(self)
        return self.spec_json


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
        process_log.begin(settings)
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
    app.extensions[EXTENSION] = make_services(connection, settings, ENDPOINTS)
    for room in (
        jobs,
        job_stream,
        capacity,
        tide,
        chat,
        completions,
        responses,
        models,
        files,
        batches,
        health,
        docs_page,
        metrics,
    ):
        app.register_api(room.routes)
    traced.install(app)
    metering.install(app)
    app.register_blueprint(page.routes)
    app.before_request(_name_request)
    app.before_request(_refuse_odd_query)
    app.after_request(_finish)
    cors.install(
        app, settings.cors_origins
    )  # before the gate: a browser asks without a key whether it may send one
    gate.install(app)
    crowd.install(app)
    staying.install(app)
    limits.install(app)
    errors.install(app)
    metrics.install(app)
    return app


def _name_request() -> None:
    g.request_id = f"req_{secrets.token_hex(12)}"


def _refuse_odd_query() -> None:
    """A query of other bytes than UTF-8, on which Werkzeug would fail wherever it is first asked for."""
    try:
        request.query_string.decode()
    except UnicodeDecodeError as error:
        raise ClientError("invalid_request", f"the query is not UTF-8 (byte {error.start})") from None


def _finish(response: Response) -> Response:
    said = {name.lower() for name, _ in response.headers}
    for name, lowered, value in _HEADERS:
        if lowered not in said:
            response.headers.add(name, value)
    if "x-request-id" not in said:
        response.headers.add("x-request-id", g.get("request_id", ""))
    return response
