"""Ctrl-C, SIGTERM and SIGHUP as one exception, raised once and never inside a held block.

A signal that lands between starting a process and remembering it would leave that process behind; so
starting and stopping hold signals. The first signal raises, the second only sets :attr:`hurried`, which
whoever is stopping things reads.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class Interrupted(KeyboardInterrupt):
    """The user, or the system, asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_status = 128 + signum


class Interruption:
    """Installs the handlers while entered; not entered, it is inert.

    A signal that was ignored before (``nohup``, a shell's background job) stays ignored.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._raised = False
        self._holds = 0
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        for each in SIGNALS:
            if (before := signal.getsignal(each)) is not signal.SIG_IGN:
                self._before[each] = before
                signal.signal(each, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)
        self._before.clear()

    @property
    def hurried(self) -> bool:
        """Whether the wish to stop was said twice: stop at once."""
        return len(self._received) > 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a signal until the block ends, and raise it there."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._raise_if_due()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._received.append(signum)
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._received and not self._raised and not self._holds:
            self._raised = True
            raise Interrupted(self._received[0])
