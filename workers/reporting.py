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
from scheduler.envelope import VERSIONS_READ
from scheduler.holding import Held
from scheduler.job import PRIORITIES, State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.recovery import recover
from scheduler.swap import STORE_ERRORS
from scheduler.tide import Entry, Mark, Point, chosen
from scheduler.version import version
from workers.marking import COUNTERS
from workers.wire import Message

log = structlog.get_logger(__name__)

STORE_RETRY_SECONDS: Final = 0.2
_REPORTS_PER_LEASE: Final = 3
_LAPSES_BORNE: Final = 3
"""Of its own lease in a row, each of which lets the others have time to come back."""

_COMPLAINT_SECONDS: Final = 30.0
_complained_at = -math.inf
_RATIOS_KEPT: Final = 256
_MARKS_KEPT: Final = 512

BUSY_SECONDS: Final = 0.9
"""How often a worker that computes reports: at each of its loop's seconds."""

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
        self._marks: deque[Mark] = deque(maxlen=_MARKS_KEPT)  # not written yet
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._device = NOTHING_READ
        self._reported_at = self._recovered_at = self._lapsed_at = -math.inf
        self._lapses = 0  # of its lease, since it last looked for jobs of the dead
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

    def note(self, mark: Mark) -> None:
        """Mark in this worker's recent past what happened, and count it."""
        self._marks.append(mark)
        if mark.kind in COUNTERS:
            self._counters[COUNTERS[mark.kind]] += 1
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
        cooling_seconds: float = 0.0,
    ) -> None:
        """Say how this worker is, its account settled, where that changed or the lease asks; see to the silent.

        While jobs run it changes all the time. What the report says of memory, and what happened since the last one, is
        added to the worker's recent past with it.

        Whatever made this worker's lease lapse though it lives (the server was away, or its clock was set) may have
        made others': so they have a lease's time to come back before their jobs are taken.
        """
        now, lease = time.monotonic(), self._lifecycle.settings.lease_seconds
        due = lease / _REPORTS_PER_LEASE
        if not self._changed and now - self._reported_at < (min(due, BUSY_SECONDS) if running else due):
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
                    held.rec.id,
                    held.rec.meta.model,
                    account.share_bytes(held.holder),
                    left(held),
                    held.far(self._clock()),
                )
                for held in running
            ),
            tokens_per_second=tokens_per_second,
            work_tokens_per_second=work_tokens_per_second,
            max_batch=self._lifecycle.settings.max_batch,
            queues=self._queues,
            starts_at=dict(starts_at),
            counters=dict(self._counters),
            measures=self._lifecycle.tally.dump(),
            footprint_ratios=self._footprint_ratios,
            working_bytes=int(account.pressure.room_bytes(account.budget_bytes, self._clock())),
            cools_until=self._clock() + cooling_seconds if cooling_seconds > 0 else 0.0,
            version=version(),
            envelope_versions=tuple(sorted(VERSIONS_READ)),
            updated_at=self._clock(),
        )
        with store_may_be_away():
            entry = Entry(_point(report), chosen(tuple(self._marks)))
            ran = fleet.report(self._lifecycle.connection, report, lease, entry)
            self._marks.clear()
            if not ran and self._reported_at > -math.inf:
                log.warning("this worker's lease had lapsed: others' may have too", lease_seconds=lease)
                if self._lapses < _LAPSES_BORNE:  # where it lapses again and again, jobs still are taken over
                    self._lapsed_at, self._lapses = now, self._lapses + 1
            self._changed, self._reported_at = False, now
            if now - self._recovered_at >= lease / _REPORTS_PER_LEASE and now - self._lapsed_at >= lease:
                self._recovered_at, self._lapses = now, 0
                held = {f"{job.rec.id} {job.lease}" for job in running}
                spans = self._lifecycle.spans
                for job_id in recover(self._lifecycle.queue, self._classes, self._name, held, spans):
                    log.warning("job taken over", job=job_id)


def _point(report: fleet.WorkerReport) -> Point:
    """What a report says of memory."""
    said = {name: getattr(report, name) for name in Point.__slots__ if hasattr(report, name)}
    rate = max(0.0, report.tokens_per_second)
    return Point(
        **said
        | {"at": round(report.updated_at, 3), "running": len(report.running), "tokens_per_second": rate}
    )


@contextlib.contextmanager
def store_may_be_away() -> Iterator[None]:
    """Leave the block, in a while, where the store does not answer: what it was for is done again later."""
    try:
        yield
    except STORE_ERRORS as error:
        complain(error)
        time.sleep(STORE_RETRY_SECONDS)


def complain(error: Exception) -> None:
    """Say in the log that the store does not answer; not each time that it is tried."""
    global _complained_at  # noqa: PLW0603 (one log, one process)
    now = time.monotonic()
    if now - _complained_at >= _COMPLAINT_SECONDS:
        _complained_at = now
        log.warning("the store does not answer", error=str(error))
