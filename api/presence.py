"""Whether the client of a request is still there: its end of the connection, looked at between events."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any, Final

from flask import request

Gone = Callable[[], bool]

_SOCKET: Final = "gunicorn.socket"


def client_gone() -> Gone:
    """A question that can be asked later, outside the request; always False where nobody can know."""
    connection: Any = request.environ.get(_SOCKET)
    return (lambda: _closed(connection)) if connection is not None else (lambda: False)


def _closed(connection: socket.socket) -> bool:
    """Whether the other side has closed. A next request that waits already says that it has not."""
    try:
        poll = select.poll()  # not `select`, which takes no descriptor above 1,023
        poll.register(connection.fileno(), select.POLLIN)
        if not poll.poll(0):
            return False
        return not connection.recv(1, socket.MSG_PEEK)
    except (OSError, ValueError):
        return True
