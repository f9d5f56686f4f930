"""What a worker says of itself to the fleet, and whose jobs it takes over where others fell silent."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

import structlog

from scheduler import fleet
from scheduler.holding import Held, recover
from scheduler.job import PRIORITIES, State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.swap import STORE_ERRORS
from workers.wire import Message

log = structlog.get_logger(__name__)

STORE_RETRY_SECONDS: Final = 0.2
_REPORTS_PER_LEASE: Final = 3
_RATIOS_KEPT: Final = 256

NOTHING_READ: Final[Message] = {"steady_bytes": 0, "steady_source": "", "limits_bytes": {}}
"""What an engine that has no share of the host's memory says of its device."""


class Reporting:
    """One worker's reports.

    Args:
        lifecycle: the store.
        name: the worker's.
        queues: names of the queues that it serves.
        clock: Unix seconds.
    """

    def __init__(
        self, lifecycle: Lifecycle, name: str, queues: Sequence[str], clock: Callable[[], float]
    ) -> None:
        self._lifecycle, self._name, self._queues, self._clock = lifecycle, name, tuple(queues), clock
        self._classes = [name for name in PRIORITIES if name in self._queues]
        if not self._classes:
            log.warning(
                "this worker will get no jobs: it listens to none of the queues that they wait in",
                worker=name,
                queues=list(self._queues),
                wanted=list(PRIORITIES),
            )
        self._counters: Counter[str] = Counter()
        self._ratios: deque[float] = deque(maxlen=_RATIOS_KEPT)
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._device = NOTHING_READ
        self._reported_at = self._recovered_at = -math.inf
        self._changed = True

    def ready(self, message: Message) -> None:
        """Take what the engine said of its device."""
        self._device = message
        self._changed = True

    def changed(self) -> None:
        """Something worth telling happened."""
        self._changed = True

    def count(self, what: str) -> None:
        """Count an event."""
        self._counters[what] += 1
        self._changed = True

    def note_footprint(self, ratio: float | None) -> None:
        """Take a job's foreseen peak over its measured one."""
        if ratio is not None:
            self._ratios.append(ratio)

    @property
    def _footprint_ratios(self) -> dict[str, float]:
        """Of the last jobs: the least, the middle and the largest."""
        ratios = sorted(self._ratios)
        return {"min": ratios[0], "median": ratios[len(ratios) // 2], "max": ratios[-1]} if ratios else {}

    @property
    def ended(self) -> tuple[int, int]:
        """How many jobs ended with a result, and how many with an error."""
        done = self._counters[State.COMPLETED.value] + self._counters[State.INCOMPLETE.value]
        return done, self._counters[State.FAILED.value]

    def withdraw(self) -> None:
        """Leave the fleet."""
        fleet.withdraw(self._lifecycle.connection, self._name)

    def report(
        self,
        engine: str,
        ledger: Ledger | None,
        running: Collection[Held],
        *,
        active_bytes: int,
        prefix_cache_bytes: int = 0,
        tokens_per_second: float,
        work_tokens_per_second: float,
        served: Sequence[str],
        left: Callable[[Held], int],
        starts_at: Mapping[str, float],
    ) -> None:
        """Say how this worker is, its account settled, where that changed or the lease asks; see to the silent."""
        now, lease = time.monotonic(), self._lifecycle.settings.lease_seconds
        if not self._changed and now - self._reported_at < lease / _REPORTS_PER_LEASE:
            return
        account = ledger or Ledger(self._device["steady_bytes"], 0, 1)
        account.settle()
        report = fleet.WorkerReport(
            name=self._name,
            host=self._host,
            pid=self._pid,
            engine=engine,
            budget_bytes=account.budget_bytes,
            budget_source=self._device["steady_source"],
            limits_bytes=self._device["limits_bytes"],
            weights_bytes=account.weights_bytes,
            reserved_bytes=account.reserved_bytes,
            used_bytes=active_bytes,
            cache_bytes=account.cache_bytes,
            prefix_cache_bytes=min(prefix_cache_bytes, account.cache_bytes),
            headroom_bytes=account.headroom_bytes,
            chunk_tokens=account.chunk_tokens,
            served=tuple(served),
            cards={name: card.to_json() for name, card in account.cards.items()},
            running=tuple(
                fleet.RunningReport(
                    held.rec.id, held.rec.meta.model, account.share_bytes(held.holder), left(held)
                )
                for held in running
            ),
            tokens_per_second=tokens_per_second,
            work_tokens_per_second=work_tokens_per_second,
            max_batch=self._lifecycle.settings.max_batch,
            queues=self._queues,
            starts_at=dict(starts_at),
            counters=dict(self._counters),
            footprint_ratios=self._footprint_ratios,
            updated_at=self._clock(),
        )
        with store_may_be_away():
            fleet.report(self._lifecycle.connection, report, lease)
            self._changed, self._reported_at = False, now
            if now - self._recovered_at >= lease / _REPORTS_PER_LEASE:
                self._recovered_at = now
                held = {f"{job.rec.id} {job.lease}" for job in running}
                for job_id in recover(self._lifecycle.queue, self._classes, self._name, held):
                    log.warning("job taken over", job=job_id)


@contextlib.contextmanager
def store_may_be_away() -> Iterator[None]:
    """Leave the block, in a while, where the store does not answer: what it was for is done again later."""
    try:
        yield
    except STORE_ERRORS as error:
        log.warning("the store does not answer", error=str(error))
        time.sleep(STORE_RETRY_SECONDS)
