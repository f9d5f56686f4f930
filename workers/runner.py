"""A worker's loop around its engine: claims out, messages in, each step written in one round trip."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog
from rq.executions import Execution
from rq.job import Job

from scheduler.holding import Held, Holding
from scheduler.job import State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.reasons import Reason
from scheduler.reserving import Reserving
from scheduler.settings import Settings
from scheduler.strays import mend
from workers.claiming import Claiming
from workers.desk import Desk, run_message
from workers.hearing import Hearing
from workers.heartbeats import beat
from workers.planning import Planning
from workers.publishing import Publishing
from workers.reporting import NOTHING_READ, Reporting
from workers.residency import Residency
from workers.sharing import Sharing
from workers.supervisor import Supervisor

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0

_MEASURE_SECONDS: Final = 10.0
"""How often the engine reads anew what the host can give, between its steps."""

_MEND_SECONDS: Final = 60.0
"""How often an idle worker mends what others left; a busy one does it in RQ's own time."""


class Runner:
    """What one worker runs.

    Args:
        lifecycle: the store and the verbs.
        name: the worker's.
        queues: names of the queues that it serves.
        clock: Unix seconds.
        patient: whether to go on waiting for a store that does not answer.
        room_seconds: how long to wait for other workers on the host to leave memory for this one.
        engine: makes the engine's supervisor, whose clock is the loop's.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        name: str,
        queues: Sequence[str],
        clock: Callable[[], float] = time.time,
        patient: Callable[[], bool] = lambda: True,
        room_seconds: float = 0.0,
        engine: Callable[[Settings], Supervisor] = Supervisor,
    ) -> None:
        self.settings = lifecycle.settings
        self.supervisor = engine(self.settings)
        self._moment = self.supervisor.clock
        self._lifecycle, self._clock = lifecycle, clock
        self._reporting = Reporting(lifecycle, name, queues, clock)
        sources = self.settings.model_sources
        self._publishing = Publishing(lifecycle.connection, sources, clock)
        self._residency = Residency(
            sources, self.supervisor.send, kept_cards=self._publishing.kept, clock=self._moment
        )
        holding = Holding(lifecycle.queue, name, clock)
        reserving = Reserving(self.settings.reserve, self.settings.reserve_quantile)
        self._planning = planning = Planning(reserving, lifecycle.histories.answers)
        self._desk = Desk(lifecycle, holding, self._reporting, self.supervisor.send, planning, clock)
        self._desk.insistence.patient = patient
        self._claiming = Claiming(lifecycle, holding, queues, clock, self._residency, planning)
        tell, lost = self.supervisor.send, self._share_lost
        self._sharing = Sharing(
            lifecycle.connection, self.settings, name, tell, lost, patience_seconds=room_seconds
        )
        self._hearing = Hearing(
            self.settings,
            self.supervisor,
            self._desk,
            self._residency,
            self._reporting,
            self._publishing,
            planning,
            clock,
            self._sharing,
        )
        self._next_measure = 0.0
        self._next_mend = self._moment() + _MEND_SECONDS
        self._next_tick = 0.0
        self._worth_claiming = True
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    @property
    def running(self) -> dict[str, Held]:
        """The jobs in hand."""
        return self._desk.running

    @property
    def ended(self) -> tuple[int, int]:
        """How many jobs it brought to a result, and how many to an error."""
        return self._reporting.ended

    @property
    def settled(self) -> bool:
        """Whether nothing waits that this worker could run."""
        return not self.running and not self._claiming.anything_waits(self._desk.ledger)

    @property
    def refusal(self) -> str | None:
        """Why this host has no memory for this worker, which cannot go on; None where it has."""
        return self._sharing.refusal

    # The loop's parts

    def open(self) -> None:
        """Start the engine and say that this worker lives."""
        self.supervisor.start()
        self._report()

    def close(self) -> None:
        """End the engine and leave the fleet."""
        self.supervisor.stop()
        self._sharing.leave()
        self._publishing.send(())
        self._reporting.withdraw()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def poke(self) -> None:
        """End a wait of :meth:`pump`; from any thread, or a signal's handler."""
        with contextlib.suppress(OSError):  # full of pokes already, or closed
            os.write(self._wake_write, b".")

    def pump(self, timeout_seconds: float) -> None:
        """Wait until the engine speaks, somebody pokes or time is up; then do what follows from it."""
        sources = [self._wake_read]
        if self.supervisor.running:
            sources.append(self.supervisor.fileno())
        sinks = [self.supervisor.send_fileno()] if self.supervisor.waits_to_send else []
        wait = (
            0.0 if self._hearing.unread else min(timeout_seconds, max(0.0, self._next_tick - self._moment()))
        )
        ready, writable, _ = select.select(sources, sinks, [], wait)
        if writable:
            self.supervisor.flush()
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
            self._claiming.forget()
            self._worth_claiming = True
        spoken = bool(ready) and ready[-1] != self._wake_read
        if spoken or self._hearing.unread:
            self._hearing.hear(more=spoken)
        if self._hearing.news or self._moment() >= self._next_tick:
            self._hearing.news = False
            self._next_tick = self._moment() + TICK_SECONDS
            self._claiming.forget()
            self._worth_claiming = True
            self._tick()

    def listen(self) -> None:
        """Do what follows from what the engine has said already; between two claims, so that it need not wait."""
        spoken = self.supervisor.running and bool(select.select([self.supervisor.fileno()], [], [], 0.0)[0])
        if spoken or self._hearing.unread:
            self._hearing.hear(more=spoken)

    def claim(self) -> Held | None:
        """The next job that fits, its memory reserved; None where none does, or the engine is not ready."""
        ledger = self._desk.ledger
        moved = self._claiming.behind_prompts and self._desk.prompts_moved
        if ledger is None or self._desk.lonely or not (self._worth_claiming or self._desk.freed or moved):
            return None
        self._desk.freed = self._desk.prompts_moved = False
        self._desk.tell_progress()
        held = self._claim(ledger)
        self._worth_claiming = held is not None
        if held is None:
            self._claiming.load_wanted(ledger)
            self._claiming.forget()
            return None
        return self._desk.take(held)

    def _claim(self, ledger: Ledger) -> Held | None:
        """Claim; where that takes it, after putting back batch work for an interactive job.

        What that gives back is known once the engine has told its caches: before, nobody more is put back.
        """
        rates = self._hearing.loops.rates
        held = self._claiming.claim(ledger, rates, self._desk.bounds)
        if held is None and ledger.told:
            chosen = self._claiming.victims(ledger, rates, self._desk.preemptible)
            if chosen:
                self._desk.preempt(chosen)
                self._claiming.forget()
                return self._claiming.claim(ledger, rates, self._desk.bounds)
        return held

    def claim_only(self, job_id: str) -> Held | None:
        """A certain job, for a worker that RQ gave it to; None where it is not this worker's to run yet."""
        ledger = self._desk.ledger
        if ledger is None or self.running:
            return None
        rec = self._lifecycle.get(job_id)
        if rec.state is not State.QUEUED:
            return None
        if rec.meta.model not in ledger.cards:
            self._claiming.load(rec, ledger)
            return None
        held = self._claiming.take(rec, ledger)
        return self._desk.take(held) if held is not None else None

    def launch(self, held: Held) -> None:
        """Hand a claimed job to the engine; it counts the prompt, and computes when that is granted."""
        if held not in self.running.values():
            return  # the engine died since the claim, and the job waits again
        if len(self.running) == 1:
            self.supervisor.heard()
        self.supervisor.send(run_message(held))

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs in hand whose clients do not want them any more."""
        self._desk.cancel(job_ids)

    def put_back_all(self, reason: Reason) -> None:
        """Let every job in hand wait again."""
        self._desk.put_back_all(reason)

    def reconcile(self) -> None:
        """Mend what RQ's tools and plain workers left."""
        mend(self._lifecycle.queue)

    def beat(self, executions: Mapping[str, Execution], seconds: int) -> None:
        """Keep RQ's records of the jobs in hand, by their attempts' ids."""
        jobs = ((held, executions.get(str(held.rec.meta.execution_id))) for held in self.running.values())
        beat(self._lifecycle.queue, [(held, each) for held, each in jobs if each is not None], seconds)

    def rq_job(self, held: Held) -> Job:
        """RQ's job for one in hand."""
        return self._lifecycle.queue.rq_job(held.rec)

    # Time passes

    def _tick(self) -> None:
        if not self.supervisor.running and not self._hearing.breaker.open:
            self.supervisor.start()
        loading, ledger, now = self._residency.loading is not None, self._desk.ledger, self._moment()
        self._sharing.keep()
        if self._sharing.waits:
            self.supervisor.heard()  # it is silent because it was not answered
        self.supervisor.watch(busy=bool(self.running), loading=loading, ready=ledger is not None)
        if ledger is not None and not loading and now >= self._next_measure:
            self._next_measure = now + _MEASURE_SECONDS
            self.supervisor.send({"kind": "measure"})
        self._desk.end_unwanted()
        self._lifecycle.end_overdue()
        if ledger is not None:
            self._desk.tell_progress()
        self._publishing.send(self._residency.served)
        self._report()
        if not self.running and now >= self._next_mend:
            self._next_mend = now + _MEND_SECONDS
            self.reconcile()

    def _share_lost(self) -> None:
        """Others took this worker's memory: what its engine holds it gives up, and its jobs wait again."""
        self._reporting.ready(NOTHING_READ)
        self.supervisor.kill()

    def _report(self) -> None:
        engine = self._residency.doing or "ready"
        if not self.supervisor.running:
            engine = "cooling down"
        elif self._desk.ledger is None:
            engine = "starting"
        self._reporting.report(
            engine,
            self._desk.ledger,
            self.running.values(),
            active_bytes=self.supervisor.account.active_bytes,
            prefix_cache_bytes=self.supervisor.account.prefix_cache_bytes,
            tokens_per_second=self._hearing.pace.tokens_per_second,
            work_tokens_per_second=self._hearing.pace.work_tokens_per_second,
            served=self._residency.served,
            left=self._planning.left,
            starts_at=self._claiming.promises.starts_at,
            cooling_seconds=self._hearing.breaker.open_seconds,
        )
