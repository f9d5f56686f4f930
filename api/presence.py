"""What is known of a request's client: whether it is still there, whether it was here before."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any, Final

from flask import request

from api.staying import may_stay

Gone = Callable[[], bool]

_SOCKET: Final = "gunicorn.socket"
_RETRIES: Final = "x-stainless-retry-count"  # OpenAI's own clients say it
_DIGITS_MOST: Final = 9
_TRIES_MOST: Final = 1 << 20


def client_gone() -> Gone:
    """Whether its end of the connection is closed, or it may stay no longer.

    It can be asked later, outside the request. Nobody can know of a connection that the server does not tell of.
    """
    connection: Any = request.environ.get(_SOCKET)
    stays = may_stay()
    return lambda: (connection is not None and _closed(connection)) or not stays()


def comes_again() -> bool | None:
    """Whether the client repeats a request that was refused; None where it does not say."""
    tries = tries_before()
    return None if tries is None else tries > 0


def tries_before() -> int | None:
    """How often the client sent the present request before; None where it does not say."""
    count = request.headers.get(_RETRIES, "").strip()
    return min(int(count), _TRIES_MOST) if count.isdecimal() and len(count) <= _DIGITS_MOST else None


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
