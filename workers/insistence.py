"""Writes that are sent until the store has them, in the order in which they were made."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from scheduler.errors import StoreUnavailable
from scheduler.holding import Held, Holding
from scheduler.swap import STORE_ERRORS, Swap
from workers.reporting import STORE_RETRY_SECONDS, complain


class Insistence:
    """What one worker writes of its jobs.

    A write that was given up, since the worker is to stop, is sent before the next one: where the store is back by then,
    a job's log has what the worker numbered, and one that had ended is not put back.

    Args:
        holding: the worker's verbs.
    """

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._unsent: deque[tuple[Sequence[Swap], Sequence[Held]]] = deque()
        self.patient: Callable[[], bool] = lambda: True
        """Whether to go on waiting for a store that does not answer."""
        self.meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext
        """What is done while it is waited for."""

    def write(self, swaps: Sequence[Swap], held: Sequence[Held]) -> list[Held]:
        """Do a write, as :meth:`scheduler.holding.Holding.send` does, as often as it takes; the jobs that were lost.

        Raises:
            StoreUnavailable: the worker is to stop; its lease lapses, and others go on with its jobs.
        """
        self._unsent.append((swaps, held))
        try:
            return self._send()
        except STORE_ERRORS as error:
            complain(error)
        with self.meanwhile():
            while self.patient():
                time.sleep(STORE_RETRY_SECONDS)
                try:
                    return self._send()
                except STORE_ERRORS as error:
                    complain(error)
        raise StoreUnavailable("the store did not answer in time")

    def _send(self) -> list[Held]:
        """Send what was not yet; of the last, the jobs that are not held any more."""
        lost: list[Held] = []
        while self._unsent:
            lost = self._holding.send(*self._unsent[0])
            self._unsent.popleft()
        return lost
