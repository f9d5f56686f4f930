"""Bytes over a real connection to the server as it is served: each is answered or the connection closed, and others go on.

An input is what a client sends; where PAUSE stands in it, it waits a moment, so that the server reads what was before.
At its end it sends no more, and reads until the server has closed.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from tests.conftest import MODEL
from tests.contract.served import serve
from tests.fuzz.target import Run, Target
from tests.valkey import lone_valkey

PAUSE: Final = b"\x1e"
PAUSE_SECONDS: Final = 0.02
PAUSES_MOST: Final = 10
ANSWER_SECONDS: Final = 30.0
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_HOST: Final = b"Host: 127.0.0.1\r\n"
_BODY: Final = json.dumps({"model": MODEL, "prompt": "a", "max_tokens": 1}).encode()


def posted(headers: bytes, body: bytes, path: bytes = b"/v1/jobs") -> bytes:
    """A request with a body, framed as its headers say or do not."""
    return b"POST " + path + b" HTTP/1.1\r\n" + _HOST + _JSON + headers + b"\r\n" + body


_JSON: Final = b"Content-Type: application/json\r\n"
HEALTH: Final = b"GET /healthz HTTP/1.1\r\n" + _HOST + b"\r\n"
LENGTH: Final = b"Content-Length: %d\r\n" % len(_BODY)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNKS: Final = b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY)
SOUND: Final = (
    HEALTH,
    posted(LENGTH, _BODY),
    posted(CHUNKED, CHUNKS),
    HEALTH + posted(LENGTH, _BODY) + HEALTH,
)
"""Requests as they should be."""

SMUGGLED: Final = (
    posted(LENGTH + CHUNKED, CHUNKS),
    posted(b"Content-Length: 0\r\n" + CHUNKED, CHUNKS),
    posted(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n" + HEALTH),
    posted(b"Content-Length: 5\r\n" + LENGTH, _BODY),
    posted(b"Content-Length: +5\r\n", _BODY),
    posted(b"Content-Length: -1\r\n", _BODY),
    posted(b"Content-Length: 5, 5\r\n", _BODY),
    posted(b"Content-Length: 0x5\r\n", _BODY),
    posted(b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    posted(b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    posted(b"Transfer-Encoding : chunked\r\n", CHUNKS),
    posted(b"Transfer-Encoding:\x0bchunked\r\n", CHUNKS),
    posted(b"X: a\r\n Transfer-Encoding: chunked\r\n", CHUNKS),
    posted(b"X: a\rTransfer-Encoding: chunked\r\n", CHUNKS),
    posted(b"X: a\nTransfer-Encoding: chunked\n\n", CHUNKS),
    posted(b"X: \x00\r\n", _BODY),
)
"""What two servers may read as two different things: none is read as one here."""

BROKEN_CHUNKS: Final = tuple(
    posted(CHUNKED, body)
    for body in (
        b"zz\r\n" + _BODY + b"\r\n0\r\n\r\n",
        b"-1\r\n" + _BODY + b"\r\n0\r\n\r\n",
        b"0x5\r\nabcde\r\n0\r\n\r\n",
        b"1_0\r\n" + _BODY + b"\r\n0\r\n\r\n",
        b"f" * 40 + b"\r\n" + _BODY,
        b"5\r\nabcdefgh\r\n0\r\n\r\n",
        b'5 ; a=b\r\n{"a":\r\n1}0\r\n\r\n',
        b"5\nabcde\n0\n\n",
        b"5;" + b"a" * 70_000 + b"\r\nabcde\r\n0\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    )
)
"""Bodies in chunks that are none."""

GARBAGE: Final = (
    b"\r\n\r\n\r\n",
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 500 + b"\r\n",
    b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nX Y: a\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET  /healthz  HTTP/1.1\r\n\r\n",
    b"GET\t/healthz\tHTTP/1.1\r\n\r\n",
    b"G\xffT /healthz HTTP/1.1\r\n\r\n",
)
"""Heads that are none: all are refused."""

CUT: Final = (
    HEALTH[:20],
    posted(LENGTH, _BODY[:10]),
    posted(CHUNKED, CHUNKS[:20]),
    posted(b"Content-Length: 90000\r\nExpect: 100-continue\r\n", b""),
)
"""Clients that leave in the midst of it."""


def seeds() -> Sequence[bytes]:
    """Sound ones, whole and in pieces; and every kind that is not."""
    pieces = [PAUSE.join([each[:30], each[30:31], each[31:]]) for each in SOUND]
    after = [bad + HEALTH for bad in (SMUGGLED[0], BROKEN_CHUNKS[0], GARBAGE[7])]
    absolute = b"GET http://127.0.0.1/healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    stream = b"GET /v1/jobs/job_01k00000000000000000000000/stream HTTP/1.1\r\n" + _HOST + b"\r\n"
    return [*SOUND, *pieces, *SMUGGLED, *BROKEN_CHUNKS, *GARBAGE, *CUT, *after, absolute, stream]


@contextmanager
def _left() -> Iterator[None]:
    """The server may close a connection; it may not leave one without a word."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError:
        return


class Server:
    """One that is served.

    Args:
        url: where.
        log: what it writes, where that is to be looked at after each.
    """

    def __init__(self, url: str, log: Path | None = None) -> None:
        self._url, self._log = url, log
        self._told = 0

    def say(self, data: bytes) -> bytes:
        """All that it answers."""
        where = urlsplit(self._url)
        found = b""
        with socket.create_connection((where.hostname, where.port), ANSWER_SECONDS) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with _left():  # it need not read what it has refused
                for number, piece in enumerate(data.split(PAUSE, PAUSES_MOST)):
                    time.sleep(PAUSE_SECONDS if number else 0)
                    client.sendall(piece)
                client.shutdown(socket.SHUT_WR)
            with _left():
                while piece := client.recv(1 << 16):
                    found += piece
        return found

    def judge(self, data: bytes) -> list[int]:
        """The statuses that it answers with, none of which may be a fault of its own; the next client is served."""
        answer = self.say(data)
        statuses = [int(each[1]) for each in _STATUS.finditer(answer)]
        assert all(status < 500 for status in statuses), answer[-300:]
        assert not answer or answer.startswith(b"HTTP/1."), answer[:100]
        assert httpx.get(f"{self._url}/healthz", timeout=ANSWER_SECONDS).status_code == 200
        logged = self._log.read_bytes() if self._log else b""
        said, self._told = logged[self._told :], len(logged)
        assert not re.search(rb"Traceback|\[ERROR\]|\[CRITICAL\]", said), said[-500:]
        return statuses


@contextmanager
def opened() -> Iterator[Run]:
    """Takes what a client sends."""
    with (
        lone_valkey() as (url, folder, connection),
        serve(url, folder) as served,
    ):
        server = Server(served, folder / "gunicorn.log")

        def run(data: bytes) -> Any:
            connection.flushall()  # what is accepted has no worker, and would fill the queue
            return server.judge(data)

        yield run


def targets() -> list[Target]:
    """The one."""
    return [Target("sockets", seeds, opened)]
