"""Single keys, as they are pressed: the terminal waits for no line's end while this is entered."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from types import TracebackType
from typing import Any, Self


class Keyboard:
    """What is typed on a terminal; without one, nothing ever is.

    Ctrl-C stays what it is. The terminal is as it was before once this is left.
    """

    def __init__(self, stream: Any = None) -> None:
        self._fd = self._terminal_of(sys.stdin if stream is None else stream)
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        if self._fd is not None:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd, termios.TCSANOW)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None and self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
            self._before = None

    def pressed(self, seconds: float) -> str:
        """The keys pressed until now, or the first within so many seconds; empty where none was."""
        if self._fd is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return ""
        typed = os.read(self._fd, 64)
        if not typed:  # the terminal is gone, and would be readable for ever
            self._fd = None
        return typed.decode(errors="replace")

    @staticmethod
    def _terminal_of(stream: Any) -> int | None:
        try:
            fd = int(stream.fileno())
        except (AttributeError, OSError, ValueError):  # it is closed, or not of the system's
            return None
        return fd if os.isatty(fd) else None
