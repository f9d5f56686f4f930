"""Says in the log that the queue's server is away: once until it is back, however often it is looked for."""

from __future__ import annotations

from typing import Final

import structlog

from scheduler.tally import Tally

log = structlog.get_logger(__name__)


class Absence:
    """What one thread of this process has said of the server.

    Args:
        what: waits for it.
    """

    def __init__(self, what: str) -> None:
        self._what: Final = what
        self._away = False
        self.tally: Tally | None = None
        """Where each time is counted."""

    def goes_on(self, error: Exception) -> None:
        """It did not answer; the message may quote a command, so the log gets the kind of error."""
        if self.tally is not None:
            self.tally.count("store_failures", self._what)
        if not self._away:
            log.warning("the queue's server is away", waiting=self._what, error=type(error).__name__)
        self._away = True

    def over(self) -> None:
        """It answered."""
        if self._away:
            log.info("the queue's server is back", waited=self._what)
        self._away = False
