"""The API's connection to the queue's server: pooled, bounded, and quick to say that nobody answers."""

from __future__ import annotations

from typing import Final

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler.settings import Settings

COMMAND_SECONDS: Final = 0.8
"""A client is told `store_unavailable` within a second."""

POOL_CONNECTIONS: Final = 64
"""Requests hold a connection for one command only; streams share the reader's."""


def connect(settings: Settings) -> Redis:
    """A client of the settings' server; it connects at its first command.

    A command is never sent twice: one whose answer was lost may have been done. A pooled connection that
    the server closed meanwhile is noticed before it is used.
    """
    pool = BlockingConnectionPool.from_url(
        settings.server_url,
        max_connections=POOL_CONNECTIONS,
        timeout=COMMAND_SECONDS,
        socket_timeout=COMMAND_SECONDS,
        socket_connect_timeout=COMMAND_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis(connection_pool=pool)
