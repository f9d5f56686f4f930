"""How jobs end by their clients' will, or by their patience, and how they are forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from scheduler.attendance import given_up, leave
from scheduler.deletion import deletion_swap
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.events import Kind, LoggedEvent, last_number, publish_command
from scheduler.job import JOB_ID, TERMINAL, State
from scheduler.job_spans import waited
from scheduler.lanes import tidy_swap
from scheduler.outcome import Outcome
from scheduler.outlook import Outlook
from scheduler.queue import JobQueue
from scheduler.record import JobRecord
from scheduler.refusals import overdue_outcome
from scheduler.slip import Slip
from scheduler.swap import Swap
from scheduler.tally import Tally

if TYPE_CHECKING:
    from scheduler.span_sender import SpanSender

_CANCEL_TRIES: Final = 20
"""A job moves under a cancellation now and then; one that cannot be ended so often was put by others
where RQ keeps jobs for later."""

_NOTHING: Final = Swap()


class Endings:
    """Ends jobs, and looks at them: who looks at one that waited too long ends it.

    Args:
        queue: the store.
        outlook: what is known now, what waits read anew.
        clock: Unix seconds.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        queue: JobQueue,
        outlook: Callable[[], Outlook],
        clock: Callable[[], float],
        pause: Callable[[float], None],
    ) -> None:
        self.queue, self.connection = queue, queue.connection
        self.tally = Tally()
        """What this process counted, for whoever looks at it."""
        self._look, self._clock, self._pause = outlook, clock, pause
        self.spans: SpanSender | None = None
        """Where this process's traces go; nowhere unless whoever made this says so (:mod:`scheduler.tracing`)."""

    def get(self, job_id: str) -> JobRecord:
        """A job.

        Raises:
            ClientError: ``not_found``.
        """
        if not JOB_ID.fullmatch(job_id):
            raise ClientError("not_found", f"no job {job_id[:64]!r}", param="id")
        rec = self.queue.fetch(job_id)
        if rec.overdue(self._clock()) and self.end_waiting(rec, overdue_outcome(rec, self._look())):
            return self.queue.fetch(job_id)
        return rec

    def end_overdue(self) -> list[str]:
        """End every waiting job whose ``queue_timeout`` has passed; their ids."""
        now = self._clock()
        late = [rec for rec in self.queue.headings(self.queue.overdue(now)) if rec.overdue(now)]
        if not late:
            return []
        outlook = self._look()
        return [rec.id for rec in late if self.end_waiting(rec, overdue_outcome(rec, outlook))]

    def cancel(self, job_id: str, *, unattended: bool = False) -> JobRecord:
        """End a job that waits, or ask the worker that holds it to; a job that ended stays as it is.

        Args:
            job_id: the job.
            unattended: only if no client waits for it.

        Returns:
            The job at that moment: ended, or in progress with its cancellation asked for.
        """
        rec = self.get(job_id)
        also = given_up(rec) if unattended else Swap()
        for _ in range(_CANCEL_TRIES):
            if rec.state in TERMINAL or (rec.cancel_requested and rec.state is not State.QUEUED):
                break
            if unattended and rec.attending != 0:
                break
            done = (
                self.end_waiting(rec, Outcome(State.CANCELLED), also)
                if rec.state is State.QUEUED
                else self.queue.ask_cancel(rec, also)
            )
            rec = self.get(job_id)
            if done:
                break
        return rec

    def leave(self, *job_ids: str, linger_seconds: float = 0.0) -> None:
        """Cancel jobs whose client went away, unless it waits for them again by then, or another client does.

        Args:
            job_ids: the jobs.
            linger_seconds: how long to wait for that, where the client may come again: it counts its tries, or has
                a key for them, and no part of an answer was sent.
        """
        left = []
        for rec in map(self.get, job_ids):
            if rec.attending is None:
                self.cancel(rec.id)
            elif not leave(self.queue, rec) and rec.state not in TERMINAL:
                left.append(rec.id)
        if left:
            self._pause(linger_seconds)
        for job_id in left:
            self.cancel(job_id, unattended=True)

    def delete(self, job_id: str) -> None:
        """Forget a job: its request, log, result and RQ's records. One that waits or runs is cancelled first.

        Raises:
            ClientError: ``not_found``; so it is from then on.
        """
        for left in reversed(range(_CANCEL_TRIES)):
            rec = self.cancel(job_id)
            if rec.state is State.QUEUED and left:
                continue  # others put it where a cancellation does not find it; what it leaves is tidied
            if self.queue.swap(deletion_swap(self.queue, rec)) == [1]:
                return
        raise StoreUnavailable(f"{job_id} moved each time that it was to be deleted")

    def end_waiting(self, rec: JobRecord, outcome: Outcome, also: Swap = _NOTHING) -> bool:
        """End a job that waits; False where it does not wait any more.

        Args:
            rec: the job.
            outcome: how it ends.
            also: what must be true and happen with it.
        """
        if rec.state is not State.QUEUED:
            return False
        try:
            event = LoggedEvent(last_number(self.connection, rec.id) + 1, Kind(outcome.state.value))
        except ClientError:  # its key holds no log, and nobody could be told
            return False
        now = self._clock()
        swap = self.queue.finish(rec, outcome, [event], now)
        # Told in the same swap: a job that was claimed meanwhile must not be announced as ended.
        told = replace(swap, commands=(*swap.commands, publish_command([(rec.id, event)])))
        done = self.queue.swap(told.beside(also), tidy_swap(Slip.of(rec)))[0] == 1
        if done:
            self.tally.ended(outcome)
        if done and self.spans is not None:
            since = rec.created_at if rec.meta.since is None else rec.meta.since
            self.spans.tell(rec.meta.traceparent, waited(rec, since, now, outcome))
        return done
