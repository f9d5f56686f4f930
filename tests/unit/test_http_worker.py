"""How long the API's connections wait for clients that send or take slowly."""

from __future__ import annotations

import socket
import threading
import time

import gevent
import pytest

from api import http_worker
from api.http_worker import BodyLate, Punctual, Taken

PIECES = 12


def test_a_large_answer_is_taken_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it takes a slow line longer than one piece may, and it comes whole; the socket then waits as it did."""
    monkeypatch.setattr(http_worker, "UNTAKEN_SECONDS", 1.0)
    monkeypatch.setattr(http_worker, "_PIECE_BYTES", 1 << 18)
    ours, theirs = socket.socketpair()
    answer = bytes(PIECES << 18)
    taken: list[int] = []

    def read_slowly() -> None:
        while sum(taken) < len(answer):
            time.sleep(0.2)
            taken.append(len(theirs.recv(1 << 18, socket.MSG_WAITALL)))

    with ours, theirs:
        reader = threading.Thread(target=read_slowly)
        reader.start()
        Taken(ours).sendall(answer)
        reader.join()
        assert sum(taken) == len(answer)
        assert ours.gettimeout() is None


def test_what_nobody_takes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader stands still."""
    monkeypatch.setattr(http_worker, "UNTAKEN_SECONDS", 0.1)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        Taken(ours).sendall(bytes(16 << 20))


class Pausing:
    """A body that comes quickly, and then not for a while."""

    def __init__(self) -> None:
        self.pieces = 0

    def read(self, size: int) -> bytes:
        """A piece."""
        self.pieces += 1
        if self.pieces > 1:
            gevent.sleep(3.0)
        return bytes(size)


def test_a_quick_start_buys_no_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MiB at once is no leave to hold its room for minutes."""
    monkeypatch.setattr(http_worker, "BODY_SECONDS", 0.1)
    body = Punctual(Pausing())
    assert len(body.read(1 << 20)) == 1 << 20
    with pytest.raises(BodyLate, match="bytes/s"):
        body.read(1)
