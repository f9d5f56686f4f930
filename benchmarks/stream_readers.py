"""A thousand readers of streams in one process that does little else: what came, and when it was read.

While streams are open, a piece is only put away with the time at which it was read; it is taken apart afterwards,
so that what is measured is the server.
"""

from __future__ import annotations

import asyncio
import re
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final, Self

from tidegate.sse import EventReader

OPENED_TOGETHER: Final = 50
MOST_SECONDS: Final = 300.0

_HEAD_ENDS: Final = b"\r\n\r\n"
_SPARE_DESCRIPTORS: Final = 64
_AGAIN_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Read:
    """What one stream's client read: events as (number, name, Unix seconds), and whether ``[DONE]`` came last."""

    events: tuple[tuple[int, str, float], ...]
    done: bool

    @classmethod
    def of(cls, pieces: Sequence[tuple[float, bytes]]) -> Self:
        """Take apart what came: an answer in chunks (RFC 9112, section 7.1), its events in server-sent form."""
        events: list[tuple[int, str, float]] = []
        chunks, reader, done = _Chunks(), EventReader(), False
        for moment, piece in pieces:
            for event in reader.feed(chunks.feed(piece)):
                done = event.data == "[DONE]"
                if event.id and not done:
                    events.append((int(event.id), event.name, moment))
        return cls(tuple(events), done)


class _Chunks:
    """The body of an answer that comes in chunks."""

    def __init__(self) -> None:
        self._rest = b""
        self._head = True

    def feed(self, piece: bytes) -> bytes:
        """What of the body a piece completes."""
        data, body = self._rest + piece, b""
        if self._head:
            head, found, data = data.partition(_HEAD_ENDS)
            if not found:
                self._rest = head
                return b""
            if not re.match(rb"HTTP/1\.1 200 ", head) or b"chunked" not in head:
                raise ValueError(f"not a stream: {head[:200]!r}")
            self._head = False
        while True:
            size, found, rest = data.partition(b"\r\n")
            length = int(size, 16) if found else 0
            if not found or len(rest) < length + 2:
                self._rest = data
                return body
            body, data = body + rest[:length], rest[length + 2 :]


class _Client(asyncio.Protocol):
    """One connection: asks for a job's stream, puts away what comes."""

    def __init__(self, job_id: str) -> None:
        loop = asyncio.get_running_loop()
        self._ask = (
            f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        self.pieces: list[tuple[float, bytes]] = []
        self.opened, self.closed = loop.create_future(), loop.create_future()

    @property
    def refused(self) -> bool:
        """Whether it was told to come again: the machine may be so busy that the server does not answer in time."""
        return bool(self.pieces) and self.pieces[0][1].startswith(b"HTTP/1.1 503 ")

    def begin_anew(self) -> None:
        """As if it had not asked."""
        loop = asyncio.get_running_loop()
        self.pieces = []
        self.opened, self.closed = loop.create_future(), loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._ask)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.time(), data))
        if not self.opened.done() and b"\nid: " in data:  # it follows: what was logged before has come
            self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for each in (self.opened, self.closed):
            if not each.done():
                each.set_result(None)


def read_streams(host: str, port: int, job_ids: Sequence[str], tell: Connection) -> None:
    """Follow jobs until all streams end; for a process of its own.

    Sends over ``tell`` how many streams are open, once all are, and at the end a :class:`Read` for each job.
    """
    allow_descriptors(len(job_ids))
    clients = asyncio.run(_read(host, port, job_ids, tell))
    tell.send([Read.of(client.pieces) for client in clients])
    tell.close()


def allow_descriptors(count: int) -> None:
    """See to it that this process may have so many sockets.

    Raises:
        OSError, ValueError: the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count + _SPARE_DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + _SPARE_DESCRIPTORS, hard))


async def _read(host: str, port: int, job_ids: Sequence[str], tell: Connection) -> list[_Client]:
    loop, turn = asyncio.get_running_loop(), asyncio.Semaphore(OPENED_TOGETHER)
    clients = [_Client(job_id) for job_id in job_ids]

    async def open_one(client: _Client) -> None:
        async with turn:
            await loop.create_connection(lambda: client, host, port)
            await client.opened
            while client.refused:
                await client.closed
                await asyncio.sleep(_AGAIN_SECONDS)
                client.begin_anew()
                await loop.create_connection(lambda: client, host, port)
                await client.opened

    async with asyncio.timeout(MOST_SECONDS):
        await asyncio.gather(*(open_one(client) for client in clients))
        tell.send(sum(not client.closed.done() for client in clients))
        await asyncio.gather(*(client.closed for client in clients))
    return clients
