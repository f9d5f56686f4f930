"""A way to a server on which the first connection is lost, after its request got through and before its answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


@contextmanager
def losing_the_first(url: str, seconds: float) -> Iterator[str]:
    """The URL of the way; the first connection is cut so many seconds after it was made."""
    target = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as server:
        way = _Way(server, (target.hostname or "", target.port or 80), seconds)
        way.begin(way.accept)
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}{target.path}"
        finally:
            way.stop()


class _Way:
    """Carries connections, each direction in a thread."""

    def __init__(self, server: socket.socket, target: tuple[str, int], seconds: float) -> None:
        self._server, self._target, self._seconds = server, target, seconds
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._ends: list[socket.socket] = []
        server.settimeout(0.05)

    def begin(self, what: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=what, args=arguments, daemon=True))
        self._threads[-1].start()

    def accept(self) -> None:
        is_first = True
        while not self._stopped:
            with suppress(TimeoutError):
                near, _ = self._server.accept()
                self.begin(self._carry, near, is_first)
                is_first = False

    def stop(self) -> None:
        self._stopped = True
        _cut(*self._ends)
        for thread in self._threads:
            thread.join(10)

    def _carry(self, near: socket.socket, is_first: bool) -> None:
        with near, socket.create_connection(self._target) as far:
            near.settimeout(None)
            self._ends += (near, far)
            self.begin(_copy, near, far)
            if is_first:
                time.sleep(self._seconds)
            else:
                _copy(far, near)
            _cut(near, far)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)


def _cut(*ends: socket.socket) -> None:
    for each in ends:
        with suppress(OSError):  # it was cut already
            each.shutdown(socket.SHUT_RDWR)
