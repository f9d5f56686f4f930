"""What is known of a request's client: whether it is still there, whether it was here before."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any, Final

from flask import request

Gone = Callable[[], bool]

_SOCKET: Final = "gunicorn.socket"
_RETRIES: Final = "x-stainless-retry-count"  # OpenAI's own clients say it


def client_gone() -> Gone:
    """Whether its end of the connection is closed: a question that can be asked later, outside the request.

    Always False where nobody can know.
    """
    connection: Any = request.environ.get(_SOCKET)
    return (lambda: _closed(connection)) if connection is not None else (lambda: False)


def comes_again() -> bool | None:
    """Whether the client repeats a request that was refused; None where it does not say."""
    count = request.headers.get(_RETRIES, "").strip()
    return count.strip("0") != "" if count.isdecimal() else None


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
