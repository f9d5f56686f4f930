"""gunicorn's settings: ``python -m gunicorn --config python:api.gunicorn_conf --bind HOST:PORT``.

One process, for its one reader of the logs, with a greenlet for each connection. Importing gevent's
patches here would patch the arbiter, which must stay an ordinary process: gunicorn's gevent worker
patches its own process before it loads the application, and so before redis is imported.
"""

from __future__ import annotations

import gc
from typing import Any

from api.descriptors import allow_connections

wsgi_app = "api.app:create_app()"
worker_class = "gevent"
workers = 1
worker_connections = 2000
preload_app = False
graceful_timeout = 5  # streams that are still open are cut after it; readers come back
keepalive = 75
accesslog = None
control_socket_disable = True


def post_fork(_: Any, worker: Any) -> None:
    """In a new worker: it may have as many connections as it is told to take, or takes what it may have."""
    worker.worker_connections = allow_connections(worker.worker_connections)


def post_worker_init(_: Any) -> None:
    """The application is loaded and stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
