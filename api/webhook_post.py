"""One webhook's request: a POST to an address that was looked at, answered within a time, or why it was not.

The host's name is resolved here, once, and the connection is made to what it resolved to and may be reached: there
is no second look-up that could say something else. The name stays in the ``Host`` header, and is what TLS checks.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final

import httpcore
import httpx

from scheduler.errors import TidegateError
from scheduler.webhook_address import Allowed, Target, may_reach

POST_SECONDS: Final = 15.0
"""From the look-up of the name to the last byte that is read."""

_ADDRESSES_MOST: Final = 4
_CONNECT_SECONDS: Final = 5.0  # of it, for one address, where there is another to try
_BODY_BYTES: Final = 16 << 10  # read, so that a receiver is not cut off while it answers; nobody wants it


class NotAnswered(TidegateError):
    """There was no answer; the message is for the client, and says nothing of what a name resolved to."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A receiver's answer.

    Args:
        status: HTTP's.
        retry_after: its ``Retry-After`` as it was written; '' where it has none.
    """

    status: int
    retry_after: str


def post(
    target: Target, headers: Mapping[str, str], body: bytes, allowed: Allowed, seconds: float = POST_SECONDS
) -> Reply:
    """Send a body; redirects are answers like others.

    Args:
        target: where to.
        headers: beside ``Host`` and ``Content-Length``.
        body: the content.
        allowed: where it may go beside public addresses.
        seconds: for everything.

    Raises:
        NotAnswered: it could not be sent, or was not answered in time.
    """
    backend = _Pinned(target, allowed, time.monotonic() + seconds)
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    fields = [("Host", target.authority), ("Connection", "close"), *headers.items()]
    context = _tls() if target.scheme == "https" else None
    try:
        with (
            httpcore.HTTPConnection(url.origin, ssl_context=context, network_backend=backend) as connection,
            connection.stream("POST", url, headers=fields, content=body) as response,
        ):
            reply = Reply(response.status, _retry_after(response.headers))
            with suppress(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
                _read_some(response.iter_stream())
            return reply
    except httpcore.TimeoutException:
        raise NotAnswered(f"no answer within {seconds:g} s") from None
    except httpcore.ConnectError as error:
        raise NotAnswered(_why_not_connected(error)) from None
    except httpcore.NetworkError:
        raise NotAnswered("the connection broke before an answer came") from None
    except httpcore.ProtocolError:
        raise NotAnswered("the answer is not one of HTTP") from None


class _Pinned(httpcore.NetworkBackend):
    """Connects to addresses that a target may have, and to no other, until a moment on the monotonic clock."""

    def __init__(self, target: Target, allowed: Allowed, until: float) -> None:
        self._target = target
        self._allowed = allowed
        self._until = until
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve the target's name, look at what it resolves to, and connect to that."""
        addresses = self._addresses()
        while True:
            address = addresses.pop(0)
            left = self._until - time.monotonic()
            if left <= 0:
                raise httpcore.ConnectTimeout
            try:
                seconds = min(left, _CONNECT_SECONDS) if addresses else left
                return _Timed(self._plain.connect_tcp(address, port, seconds), self._until)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not addresses:
                    raise

    def _addresses(self) -> list[str]:
        """Where to connect, one at least, as numbers: connecting to one looks nothing up."""
        try:
            found = socket.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise NotAnswered("its host's name does not resolve") from None
        addresses = dict.fromkeys(ip_address(str(entry[4][0])) for entry in found)
        may = [str(each) for each in addresses if may_reach(self._target, each, self._allowed)]
        if not may:
            raise NotAnswered("its host is nowhere that webhooks may go to")
        return may[:_ADDRESSES_MOST]


class _Timed(httpcore.NetworkStream):
    """A connection that ends at a moment, however slowly the other side goes on."""

    def __init__(self, stream: httpcore.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what there is."""
        return self._stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write everything."""
        self._stream.write(buffer, self._left())

    def close(self) -> None:
        """Close it."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Go on inside TLS."""
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._left()), self._until)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of a connection."""
        return self._stream.get_extra_info(info)

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            self.close()
            raise httpcore.ReadTimeout
        return left


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Certificates as httpx trusts them, ``SSL_CERT_FILE`` heeded; made at the first use, since it takes a while."""
    return httpx.create_ssl_context()


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> str:
    return next((value.decode("latin-1") for name, value in headers if name.lower() == b"retry-after"), "")


def _read_some(parts: Iterable[bytes]) -> None:
    count = 0
    for part in parts:
        count += len(part)
        if count > _BODY_BYTES:
            return


def _why_not_connected(error: httpcore.ConnectError) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {cause.verify_message}"
    return "TLS failed" if isinstance(cause, ssl.SSLError) else "its host takes no connection"
