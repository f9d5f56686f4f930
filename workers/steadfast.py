"""What an RQ worker lacks to outlive a store that is away: commands that do not wait for ever, a thread that goes on."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from rq.utils import now
from rq.worker import BaseWorker

_COMMAND_SECONDS: Final = 5.0
_COMMANDS_PER_LEASE: Final = 3


class Steadfast(BaseWorker):
    """A worker whose thread of commands goes on, and which moves no job by its age."""

    def _pubsub_exception_handler(self, exc: Exception, pubsub: PubSub, pubsub_thread: Any) -> None:
        """RQ goes on where the connection was lost; where the server was late, or loads, or refuses, its thread ends."""
        known = RedisConnectionError(str(exc)) if isinstance(exc, RedisError) else exc
        super()._pubsub_exception_handler(known, pubsub, pubsub_thread)

    def clean_registries(self) -> None:
        """Clean what has ended; jobs found started or in between are the runner's to recover."""
        for each in self.queues:
            if each.acquire_maintenance_lock():
                each.finished_job_registry.cleanup()
                each.failed_job_registry.cleanup()
                each.canceled_job_registry.cleanup()
                each.release_maintenance_lock()
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ does not annotate it

    def clean_group_registries(self) -> None:
        """RQ's, which reads every group's name; one that is no text, which others wrote, would end the worker."""
        with contextlib.suppress(UnicodeDecodeError):
            super().clean_group_registries()  # type: ignore[no-untyped-call]


def be_quick(connection: Redis, lease_seconds: float) -> None:
    """Wait for no answer longer than a third of a lease, and send nothing twice unasked: the loop does, under its guards.

    RQ lets a command wait for as long as its own dequeuing may, 415 s, and redis-py sends it anew, three times. A server
    that stood still, or a link that was cut without a word, would hold the worker long after it is back.
    """
    seconds = min(_COMMAND_SECONDS, lease_seconds / _COMMANDS_PER_LEASE)
    pool = connection.connection_pool
    pool.connection_kwargs |= {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    pool.disconnect()  # those that were made before
