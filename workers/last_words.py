"""The tail of what a process wrote to its stderr: read now and then, and after its death, by no thread of its own.

A thread that cannot be started where memory is short would be waited for without an end.
"""

from __future__ import annotations

import collections
import os
from typing import IO, Final

import structlog

from workers.unsaid import loggable

log = structlog.get_logger(__name__)

_LINES: Final = 40
_READ_BYTES: Final = 1 << 16
_LINE_BYTES: Final = 1 << 13
"""Of a line without an end, the last so many."""


class LastWords:
    """One process's.

    Args:
        stream: its stderr, a pipe; it is closed by :meth:`close`.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES)
        self._begun = b""
        os.set_blocking(stream.fileno(), False)

    @property
    def lines(self) -> list[str]:
        """The last ones, the oldest first."""
        return [*self._lines]

    def read(self) -> None:
        """Take what was written since; a process that writes much waits for this."""
        while not self._stream.closed:
            try:
                piece = os.read(self._stream.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
            *whole, rest = (self._begun + piece).split(b"\n")
            self._begun = rest[-_LINE_BYTES:]
            for line in whole:
                self._keep(line)
            if not piece:
                return

    def close(self) -> None:
        """Take the last of it."""
        self.read()
        self._keep(self._begun)
        self._begun = b""
        self._stream.close()

    def _keep(self, line: bytes) -> None:
        text = line[-_LINE_BYTES:].decode(errors="replace").rstrip()
        if text:
            self._lines.append(text)
            log.debug("engine says", text=loggable(text))
