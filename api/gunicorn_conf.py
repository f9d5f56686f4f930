"""gunicorn's settings: ``python -m gunicorn --config python:api.gunicorn_conf --bind HOST:PORT``.

One process, for its one reader of the logs, with a greenlet for each connection. Importing gevent's
patches here would patch the arbiter, which must stay an ordinary process: gunicorn's gevent worker
patches its own process before it loads the application, and so before redis is imported.
"""

from __future__ import annotations

import gc
from typing import Any

from gunicorn.errors import AppImportError

from api.descriptors import allow_connections
from scheduler.errors import SettingsInvalid

wsgi_app = "api.app:create_app()"
worker_class = "api.http_worker.HttpWorker"
logger_class = "api.quiet_log.QuietLog"
workers = 1
worker_connections = 2000
preload_app = False
graceful_timeout = 5  # streams that are still open are cut after it; readers come back
keepalive = 75
limit_request_line = 8190  # the longest that gunicorn reads; a list's filters may be long
accesslog = None
control_socket_disable = True


def post_fork(_: Any, worker: Any) -> None:
    """In a new worker: it may have as many connections as it is told to take, or takes what it may have."""
    worker.worker_connections = allow_connections(worker.worker_connections)


def post_worker_init(worker: Any) -> None:
    """The application is loaded: it is told where it listens, and it stays, as the garbage collector need not check.

    Batches and webhooks that are due, whoever left them, go on from now on.

    Raises:
        AppImportError: it may not listen there; gunicorn says so and ends.
    """
    names = (listener.getsockname() for listener in worker.sockets)
    try:
        worker.wsgi.listen_on([name[0] for name in names if isinstance(name, tuple)])  # others are files
    except SettingsInvalid as error:
        raise AppImportError(str(error)) from error
    gc.collect()
    gc.freeze()
    worker.wsgi.begin()


def worker_exit(_: Any, worker: Any) -> None:
    """The worker ends: what it has not sent or fed is another's at once."""
    application = getattr(worker, "wsgi", None)  # it may have ended before it had one
    if application is not None:
        application.end()
