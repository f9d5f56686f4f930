"""Clients that are slow, or stand still, against the server as it is served: they cost others nothing, and are let go."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from redis import Redis

from tests.conftest import MODEL
from tests.contract.hasty import SECONDS
from tests.contract.served import serve
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

READERS = 20
PIECE = "x" * 2048
PIECES = 5000
MIB = 1 << 20
KEEP_ALIVE_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Served:
    """The API, where it listens, and what it logs."""

    url: str
    log: Path

    def open(self, head: str) -> socket.socket:
        """A connection over which this much was sent; it takes in next to nothing."""
        where = urlsplit(self.url)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect((where.hostname, where.port))
        client.sendall(head.encode())
        return client

    def connections(self) -> int:
        """How many the server has with clients."""
        port = urlsplit(self.url).port
        found = psutil.net_connections("tcp")
        return sum(each.laddr.port == port and each.status == "ESTABLISHED" for each in found if each.laddr)


@pytest.fixture(scope="module")
def served(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the module, whose patience is short."""
    folder = tmp_path_factory.mktemp("slow")
    more = {"GUNICORN_CMD_ARGS": f"--keep-alive {KEEP_ALIVE_SECONDS}"}
    with serve(valkey_url, folder, prefix=(sys.executable, "-m", "tests.contract.hasty"), more=more) as url:
        yield Served(url, folder / "gunicorn.log")


def api_bytes() -> int:
    """What the API's processes hold."""
    children = psutil.Process().children(recursive=True)
    names = ((child, " ".join(child.cmdline())) for child in children)
    return sum(child.memory_info().rss for child, name in names if "gunicorn" in name)


def test_a_reader_that_does_not_read_is_dropped(
    served: Served, worker: PretendWorker, connection: Redis
) -> None:
    """A log of 10 MiB for each of twenty: it is not piled up for them, others' streams go on, and they are let go."""
    held = worker.claim(worker_submit(served))
    for _ in range(PIECES):
        worker.say(held, PIECE)
    other = worker.claim(worker_submit(served))
    before = api_bytes()
    with ExitStack() as readers, httpx.Client(base_url=served.url, timeout=30) as http:
        stream = f"GET /v1/jobs/{held.rec.id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
        slow = [readers.enter_context(served.open(stream)) for _ in range(READERS)]
        with http.stream("GET", f"/v1/jobs/{other.rec.id}/stream") as answer:
            pieces = answer.iter_text()
            worker.say(other, "to a reader")
            waited = time.monotonic()
            while "to a reader" not in next(pieces):
                pass
            assert time.monotonic() - waited < SECONDS
            assert api_bytes() - before < READERS * PIECES * len(PIECE) / 2
            wait_until(
                lambda: served.log.read_text().count("it took nothing") == READERS, "they are dropped", 30
            )
            worker.say(other, "still here")
            while "still here" not in next(pieces):
                pass
        assert len(slow) == READERS
    assert api_bytes() - before < READERS * PIECES * len(PIECE) / 2
    worker.complete(held, "")
    worker.complete(other, "")


def worker_submit(served: Served) -> str:
    """A new job's id."""
    return str(httpx.post(f"{served.url}/v1/jobs", json={"model": MODEL, "prompt": "x"}).json()["id"])


def everything(client: socket.socket) -> bytes:
    """What comes until the other side has closed."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(1 << 20):
            found += piece
    return found


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_trickles_is_refused(served: Served, connection: Redis, chunked: bool) -> None:
    """It is not waited for as long as its sender likes: 400, and the connection is closed."""
    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 5000"
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    with served.open(head) as client:
        began = time.monotonic()
        client.settimeout(0.2)
        said = b""
        while not said:
            client.sendall(b"1\r\n \r\n" if chunked else b" ")
            with suppress(TimeoutError):
                said = client.recv(65_536)
            assert time.monotonic() - began < 10 * SECONDS, "it is waited for"
        assert said.startswith(b"HTTP/1.1 400")
        assert b"bytes/s" in said or b"bytes/s" in everything(client)


def test_a_body_that_pauses_is_told_so(served: Served, connection: Redis) -> None:
    """It came quickly and stands still: the same 400, in the same words."""
    head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    with served.open(head) as client:
        client.sendall(b" " * 90_000)
        said = everything(client)
    assert said.startswith(b"HTTP/1.1 400")
    assert b"bytes/s" in said


def test_a_head_that_trickles_and_a_pause_are_cut(served: Served, connection: Redis) -> None:
    """A request that does not begin, or does not come to an end, holds its connection for ``keepalive`` at most."""
    with (
        served.open("") as idle,
        served.open("GET /healthz HTTP/1.1\r\nHost: localhost\r\n") as slow,
        served.open("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as done,
    ):
        began = time.monotonic()
        slow.settimeout(0.2)
        ended = False
        while not ended:
            with suppress(TimeoutError):
                try:
                    slow.sendall(b"x")
                    ended = not slow.recv(1)
                except OSError as error:
                    ended = not isinstance(error, TimeoutError)
            assert time.monotonic() - began < 10 * KEEP_ALIVE_SECONDS, "it is waited for"
        assert everything(idle) == b""
        assert everything(done).startswith(b"HTTP/1.1 200")
