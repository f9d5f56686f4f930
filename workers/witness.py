"""What a worker tells of its jobs' moves, each once: to its tally, to its recent past, and to their traces."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from scheduler.blame import Failure
from scheduler.holding import Held, Progress
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from workers import marking
from workers.attempt_spans import AttemptSpans
from workers.counting import Counting
from workers.reporting import Reporting

_MARKED: Final = {Reason.MEMORY: marking.shed, Reason.PREEMPTED: marking.preempted}
"""Of the reasons for putting a job back, those that its worker chose; the others follow from what is marked by itself."""


class Witness:
    """One worker's.

    Args:
        reporting: publishes the recent past.
        lifecycle: whose tally and spans these are.
        clock: Unix seconds.
    """

    def __init__(self, reporting: Reporting, lifecycle: Lifecycle, clock: Callable[[], float]) -> None:
        self.counting = Counting(lifecycle.tally)
        self._reporting, self._clock = reporting, clock
        self._spans = AttemptSpans(lifecycle.spans, clock)

    def claimed(self, held: Held, share_bytes: int) -> None:
        """A job was taken, and so much reserved for it."""
        self._spans.begun(held)
        self.counting.claimed(held)
        self._reporting.note(marking.admitted(held, share_bytes, self._clock()))

    def wrote(self, progress: Sequence[Progress], lost: Collection[Held]) -> None:
        """A step was written; some of its jobs were another's meanwhile."""
        self._spans.wrote(progress, lost)

    def ended(self, held: Held, outcome: Outcome, share_bytes: int) -> None:
        """A job ended, and gives so much back."""
        self._reporting.count(outcome.state.value)
        self._reporting.note_footprint(held.rec.meta.footprint_ratio)
        self._reporting.note(marking.ended(held, outcome, share_bytes, self._clock()))
        self.counting.ended(held, outcome)

    def put_back(self, held: Held, reason: Reason, share_bytes: int, lost: Collection[Held]) -> None:
        """A job was put back to wait, and gives so much back; or it was another's before."""
        self._spans.put_back(held, reason, lost)
        if held in lost:
            return
        self.counting.put_back(held, reason)
        if reason in _MARKED:
            self._reporting.note(_MARKED[reason](held, share_bytes, self._clock()))

    def failed(self, jobs: Sequence[Held], failure: Failure) -> None:
        """An engine failed under jobs, before anybody knows what becomes of them."""
        self.counting.fault(failure)
        if failure.memory:
            self._reporting.note(marking.out_of_memory(failure, jobs, self._clock()))
        for held in jobs:
            self.counting.failed(held, failure)
            self._spans.failed(held, failure)
