"""The API's connection to the queue's server: pooled, bounded, and quick to say that nobody answers.

A server that stands still takes connections and answers nothing. Whoever waited for it in vain says so to the others:
those who stand behind it for a connection, and those who come next, are told at once for a moment; then it is asked
again. So a request is held for one command's time, however many it has to send and however many requests there are.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, Final

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from scheduler.settings import Settings

COMMAND_SECONDS: Final = 0.8
"""A client is told `store_unavailable` within a second."""

SILENT_SECONDS: Final = 0.3
"""How long nobody asks a server that did not answer."""

POOL_CONNECTIONS: Final = 64
"""Requests hold a connection for one command only; streams share the reader's."""


class _Patience(Retry):
    """No command is sent twice; the connections of one pool share this, and learn of its silence from each other."""

    def __init__(self) -> None:
        super().__init__(NoBackoff(), 0)
        self._answered_at = self._silent_until = float("-inf")

    def __deepcopy__(self, _: object) -> _Patience:
        return self

    def call_with_retry(self, do: Callable[..., Any], *rest: Any, **more: Any) -> Any:
        """Send a command, or connect, and note what came of it; neither, where the server was silent just now.

        Raises:
            RedisTimeoutError: it does not answer, or did not just now.
        """
        if time.monotonic() < self._silent_until:
            raise RedisTimeoutError("the server did not answer just now")
        try:
            answer = super().call_with_retry(do, *rest, **more)
        except (RedisTimeoutError, BusyLoadingError) as error:
            self.unanswered(error)
            raise
        if not isinstance(answer, socket.socket):  # to be connected is no answer
            self._answered_at, self._silent_until = time.monotonic(), float("-inf")
        return answer

    def unanswered(self, error: Exception) -> None:
        """A command was sent in vain; while its answer was waited for, others may have come."""
        now = time.monotonic()
        waited = isinstance(error, BusyLoadingError) or now - self._answered_at >= COMMAND_SECONDS
        if now >= self._silent_until and waited:
            self._silent_until = now + SILENT_SECONDS


class _Pool(BlockingConnectionPool):
    """Hands out connections; who is greeted by nobody has waited in vain too."""

    def get_connection(self, *args: Any, **more: Any) -> Any:
        """A connection.

        Raises:
            RedisTimeoutError: the server does not answer, or did not just now.
        """
        try:
            return super().get_connection(*args, **more)  # type: ignore[no-untyped-call]
        except (RedisTimeoutError, BusyLoadingError) as error:  # in its greeting
            self.connection_kwargs["retry"].unanswered(error)
            raise


def connect(settings: Settings) -> Redis:
    """A client of the settings' server; it connects at its first command.

    A command is never sent twice: one whose answer was lost may have been done. A pooled connection that
    the server closed meanwhile is noticed before it is used.
    """
    pool = _Pool.from_url(
        settings.server_url,
        max_connections=POOL_CONNECTIONS,
        timeout=COMMAND_SECONDS,
        socket_timeout=COMMAND_SECONDS,
        socket_connect_timeout=COMMAND_SECONDS,
        retry=_Patience(),
    )
    return Redis(connection_pool=pool)
