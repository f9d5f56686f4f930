"""What the queue's server says of itself to `tidegate doctor`: read only, and nothing of what it keeps.

A server may forbid a client to ask (an access list; a provider's ``CONFIG``): that is said, and the rest is looked at.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler.loopback import is_loopback
from scheduler.settings import Settings
from scheduler.versions_waiting import versions_waiting
from tidegate.embedded import shown_url
from tidegate.engine_facts import Unknown

_SERVER_SECONDS: Final = 5.0
_PINGS: Final = 5

_ASKED: Final = ("appendfsync", "save", "dir", "stop-writes-on-bgsave-error", "bind", "protected-mode")
"""Of the server's configuration; nothing among it is a secret."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What the queue's server says of itself.

    Args:
        url: where it is, without a password.
        info: its ``INFO``; empty where this client may not ask.
        latency_seconds: of a PING, the middle of a few.
        ahead_seconds: its clock less this host's.
        config: settings of its own; a reason where they were refused.
        lets_all_in: whether it asks nobody for a password; None where that was not told.
        folder: where it keeps its files and how many bytes are free there; None where that is not on this host.
        waiting: jobs, by their envelopes' versions.
    """

    url: str
    info: Mapping[str, Any]
    latency_seconds: float
    ahead_seconds: float
    config: Mapping[str, str] | Unknown
    lets_all_in: bool | None
    folder: tuple[Path, int] | None
    waiting: Mapping[int, int] = field(default_factory=dict)

    @property
    def here(self) -> bool:
        """Whether it is reached without a network."""
        return is_here(self.url)


def is_here(url: str) -> bool:
    """Whether a server's URL leads to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "unix" or is_loopback(parts.hostname or "localhost")


def queue(settings: Settings) -> QueueFacts | Unknown:
    """The queue's server, as it answers this process."""
    once = Retry(NoBackoff(), 0)
    try:
        with redis.Redis.from_url(
            settings.server_url,
            socket_timeout=_SERVER_SECONDS,
            socket_connect_timeout=_SERVER_SECONDS,
            retry=once,
        ) as server:
            server.ping()
            pings = sorted(_seconds_of(server) for _ in range(_PINGS))
            began = time.time()
            told: Any = server.time()
            ahead = told[0] + told[1] / 1e6 - (began + time.time()) / 2
            url, config = shown_url(settings.server_url), _config(server)
            return QueueFacts(
                url,
                _or_none(server.info, dict) or {},
                pings[_PINGS // 2],
                ahead,
                config,
                _lets_all_in(server),
                None if isinstance(config, Unknown) or not is_here(url) else on_disk(config.get("dir", "")),
                versions_waiting(server),
            )
    except (redis.RedisError, ValueError) as error:
        return Unknown(" ".join(str(error).split()) or type(error).__name__)


def on_disk(name: str) -> tuple[Path, int] | None:
    """A folder that a server on this host names, and what is free there; None where it is in a container's own files."""
    folder = Path(name)
    try:
        return (folder, shutil.disk_usage(folder).free) if folder.is_absolute() and folder.is_dir() else None
    except OSError:
        return None


def _seconds_of(server: redis.Redis) -> float:
    began = time.perf_counter()
    server.ping()
    return time.perf_counter() - began


def _config(server: redis.Redis) -> Mapping[str, str] | Unknown:
    found: dict[str, str] = {}
    try:
        for name in _ASKED:
            told: Any = server.config_get(name)
            found |= {str(key): str(value) for key, value in told.items()}
    except redis.ResponseError as error:  # a provider's server does not know the command at all
        return Unknown(" ".join(str(error).split()))
    return found


def _lets_all_in(server: redis.Redis) -> bool | None:
    user = _or_none(lambda: server.acl_getuser("default"), dict)
    flags = user.get("flags") if user else None
    return {"on", "nopass"} <= set(flags) if isinstance(flags, list) else None


def _or_none(ask: Callable[[], Any], kind: type[dict[Any, Any]]) -> Any:
    try:
        told = ask()
    except redis.ResponseError:  # an access list may forbid it
        return None
    return told if isinstance(told, kind) else None
