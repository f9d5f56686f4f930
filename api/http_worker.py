"""The server's worker: gunicorn's for gevent, which tells of bytes that are no request in the API's own words.

Such never reach the application: a line of megabytes, a header that is none. gunicorn's own answer is a page of HTML.
What a refused request left unread of its body gunicorn reads out before the next one, however much comes and without
giving others a turn: one client that nobody knows could hold the process for as long as it sends. Here it is read in
turns, and no more than so much.

Nor may a client hold a connection by being slow. Of what it is sent it must take :data:`_PIECE_BYTES` in each
:data:`UNTAKEN_SECONDS`, or the connection ends: a slow line gets a large answer too, and what waits for a reader that
stands still is that piece, the rest of one answer, and what the system's buffers hold. A body must come at
:data:`BODY_BYTES_PER_SECOND`, :data:`BODY_SECONDS` behind at most; a request's head, and the pause before it, have
gunicorn's ``keepalive``.

Whatever is imported here is imported before gevent patches the process: no flask, no redis.
"""

from __future__ import annotations

import json
import secrets
import time
from contextlib import suppress
from typing import Any, Final

import gevent
from gunicorn.http.errors import (
    ConfigurationProblem,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    NoMoreData,
    ParseException,
)
from gunicorn.util import write_nonblock
from gunicorn.workers.ggevent import GeventWorker

from scheduler.errors import ClientError

_QUOTED_MOST: Final = 200
_PIECE_BYTES: Final = 64 << 10
_UNREAD_MOST_BYTES: Final = 256 << 20
"""Of a body, after the answer: a client that sends everything before it reads an answer gets it."""

UNTAKEN_SECONDS: Final = 30.0
BODY_SECONDS: Final = 30.0
BODY_BYTES_PER_SECOND: Final = 4096

_OUR_FAULTS: Final = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)


class HttpWorker(GeventWorker):
    """Gunicorn's, with another voice for what is no HTTP."""

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer a request, then read what it left of its body; where that is too much, the connection is closed."""
        req.body.reader = Punctual(req.body.reader)
        try:
            super().handle_request(listener_name, req, Taken(sock), addr)  # type: ignore[no-untyped-call]
        except TimeoutError:
            self.log.warning("Dropped ip=%s: it took nothing for %g s", (addr or ("",))[0], UNTAKEN_SECONDS)
            raise StopIteration from None
        done = False
        with self.timeout_ctx():  # type: ignore[no-untyped-call]
            done = read_out(req.body)
        if not done:
            raise StopIteration  # gunicorn's word for it

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer 400 ``invalid_request`` to what cannot be read; leave the rest to gunicorn."""
        if not isinstance(exc, ParseException) or isinstance(exc, _OUR_FAULTS):
            super().handle_error(req, client, addr, exc)  # type: ignore[no-untyped-call]
            return
        # Its words quote the line at fault, which may have a key or a prompt: they are the client's alone.
        self.log.warning("Invalid request from ip=%s: %s", (addr or ("",))[0], type(exc).__name__)
        with suppress(OSError):  # it may have left
            write_nonblock(client, unreadable(exc))  # type: ignore[no-untyped-call]


class BodyLate(ParseException):
    """A body comes too slowly."""

    def __str__(self) -> str:
        """For its sender."""
        return f"the body came at less than {BODY_BYTES_PER_SECOND:,} bytes/s"


class Taken:
    """A connection whose client must take what it is sent, piece by piece.

    Args:
        sock: gevent's socket. Its own time-out would be one for all that is sent at once, and one for reading a body.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: bytes) -> None:
        """Send it.

        Raises:
            TimeoutError: of a piece something was not taken in time.
        """
        self._sock.settimeout(UNTAKEN_SECONDS)
        try:
            for at in range(0, len(data), _PIECE_BYTES):
                self._sock.sendall(data[at : at + _PIECE_BYTES])
        finally:
            self._sock.settimeout(None)


class Punctual:
    """Reads a body, and waits for it no longer than a slow line takes.

    Args:
        reader: gunicorn's.
    """

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._late_at = time.monotonic() + BODY_SECONDS

    def read(self, size: int) -> bytes:
        """A piece.

        Raises:
            BodyLate: it did not come in time.
        """
        left = max(0.0, self._late_at - time.monotonic())
        with gevent.Timeout(left, BodyLate()):  # type: ignore[no-untyped-call]
            piece: bytes = self._reader.read(size)
        earned = self._late_at + len(piece) / BODY_BYTES_PER_SECOND
        self._late_at = min(earned, time.monotonic() + BODY_SECONDS)  # who was quick may not pause for hours
        return piece


def read_out(body: Any) -> bool:
    """Read the rest of a body, a piece in each turn; whether it came to its end."""
    left = _UNREAD_MOST_BYTES
    with suppress(ParseException, NoMoreData, OSError):  # in broken chunks, or its sender has left
        while piece := body.read(_PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                return False
            time.sleep(0)
        return True
    return False


def unreadable(why: Exception) -> bytes:
    """The answer to bytes that are no request."""
    error = ClientError("invalid_request", f"this is no request that can be read: {str(why)[:_QUOTED_MOST]}")
    body = json.dumps({"error": error.body()})
    lines = (
        "HTTP/1.1 400 Bad Request",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "x-should-retry: false",
        f"x-request-id: req_{secrets.token_hex(12)}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("ascii")
