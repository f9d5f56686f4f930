"""A worker's loop around its engine: claims out, messages in, each step written in one round trip."""

from __future__ import annotations

import collections
import contextlib
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog
from rq.job import Job

from scheduler.blame import Failure
from scheduler.errors import ClientError, gib
from scheduler.footprint import ModelCard, Row, alone_bytes
from scheduler.holding import Held, Holding
from scheduler.job import State
from scheduler.ledger import Ledger, Pressure
from scheduler.lifecycle import Lifecycle, never_fits
from scheduler.strays import mend
from workers.claiming import Claiming
from workers.classifier import classify_text, is_suspect
from workers.desk import Desk, key_of, progress_of
from workers.pace import Breaker, Pace
from workers.reporting import Reporting
from workers.residency import Residency
from workers.supervisor import Supervisor
from workers.wire import Message, WireBroken

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0

_LOAD_SECONDS: Final = 3600.0
"""An engine silent for so long while it loads, which may mean to download, is replaced."""

_MEASURE_SECONDS: Final = 10.0
"""How often an idle engine reads anew what the host can give."""

_SHEDS_MOST: Final = 8
"""Times that a job may be shed before it runs alone."""


class Runner:
    """What one worker runs.

    Args:
        lifecycle: the store and the verbs.
        name: the worker's.
        queues: names of the queues that it serves.
        clock: Unix seconds.
        patient: whether to go on waiting for a store that does not answer.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        name: str,
        queues: Sequence[str],
        clock: Callable[[], float] = time.time,
        patient: Callable[[], bool] = lambda: True,
    ) -> None:
        self.settings = lifecycle.settings
        self.supervisor = Supervisor(self.settings)
        self._lifecycle, self._clock = lifecycle, clock
        self._reporting = Reporting(lifecycle, name, queues, clock)
        self._residency = Residency(self.settings.model_sources, self.supervisor.send)
        holding = Holding(lifecycle.queue, name, clock)
        self._desk = Desk(lifecycle, holding, self._reporting, self.supervisor.send, clock)
        self._desk.patient = patient
        self._claiming = Claiming(lifecycle, holding, queues, clock, self._residency)
        self._pace, self._breaker = Pace(time.monotonic), Breaker(time.monotonic)
        self._pressure = Pressure()
        self._heard: collections.deque[Message] = collections.deque()
        self._next_measure = 0.0
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
        return not self.running and not self._claiming.anything_waits()

    # The loop's parts

    def open(self) -> None:
        """Start the engine and say that this worker lives."""
        self.supervisor.start()
        self._report()

    def close(self) -> None:
        """End the engine and leave the fleet."""
        self.supervisor.stop()
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
        wait = 0.0 if self._heard else min(timeout_seconds, max(0.0, self._next_tick - time.monotonic()))
        ready, writable, _ = select.select(sources, sinks, [], wait)
        if writable:
            self.supervisor.flush()
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
            self._claiming.forget()
            self._worth_claiming = True
        if self._heard or (ready and ready[-1] != self._wake_read):
            self._hear(more=bool(ready) and ready[-1] != self._wake_read)
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + TICK_SECONDS
            self._claiming.forget()
            self._worth_claiming = True
            self._tick()

    def claim(self) -> Held | None:
        """The next job that fits, its memory reserved; None where none does, or the engine is not ready."""
        ledger = self._desk.ledger
        if ledger is None or self._desk.lonely or not (self._worth_claiming or self._desk.freed):
            return None
        self._desk.freed = False
        held = self._claiming.claim(ledger)
        self._worth_claiming = held is not None
        if held is None:
            self._claiming.load_wanted(ledger)
            self._claiming.forget()
            return None
        return self._desk.take(held)

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
        meta = held.rec.meta
        self.supervisor.send(
            {
                "kind": "run",
                "key": key_of(held),
                "model": meta.model,
                "request": held.rec.envelope["request"],
                "priority": meta.priority,
                "claimed_at": held.claimed_at,
                "so_far": held.tokens,
                "max_tokens": meta.max_tokens,
                "seed": meta.seed,
            }
        )

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs in hand whose clients do not want them any more."""
        self._desk.cancel(job_ids)

    def put_back_all(self, reason: str) -> None:
        """Let every job in hand wait again."""
        self._desk.put_back_all(reason)

    def reconcile(self) -> None:
        """Mend what RQ's tools and plain workers left."""
        mend(self._lifecycle.queue)

    def rq_job(self, held: Held) -> Job:
        """RQ's job for one in hand."""
        return self._lifecycle.queue.rq_job(held.rec)

    # What the engine says

    def _hear(self, *, more: bool) -> None:
        """Take what the engine said, in order; what a failing store interrupts is taken up again."""
        died = False
        if more:
            try:
                self._heard += self.supervisor.receive()
            except WireBroken:
                died = True
        while self._heard:
            steps: list[Message] = []
            while self._heard and self._heard[0]["kind"] == "step":
                steps += self._heard.popleft()["steps"]
            self._write(steps)  # a job's tokens before its shedding
            if self._heard:
                self._on(self._heard.popleft())
        self.supervisor.heard()
        if died:
            self._engine_died()

    def _write(self, steps: Sequence[Message]) -> None:
        if not steps:
            return
        self._pace.count(sum(len(step.get("tokens", ())) for step in steps))
        if self._desk.ledger is not None:
            self._desk.ledger.note_cache(self.supervisor.account.cache_bytes)
        self._desk.write(progress_of(self._desk, steps))

    def _on(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "ready":
            self._on_ready(message)
        elif kind == "loaded":
            self._on_loaded(message)
        elif kind == "load_failed":
            self._residency.give_up(message["model"], message["reason"], self._desk.ledger)
        elif kind == "measured":
            self._reporting.ready(message)
            if self._desk.ledger is not None:
                self._desk.ledger.reading_bytes = message["budget_bytes"]
        elif kind == "raised":
            self._on_raised(message)
        elif (held := self.running.get(message.get("key", ""))) is not None:
            self._on_job(held, message)

    def _on_job(self, held: Held, message: Message) -> None:
        kind = message["kind"]
        if kind == "sized":
            self._on_sized(held, Row(message["prompt_tokens"], message["max_tokens"]))
        elif kind == "refused":
            self._desk.fail(held, ClientError.from_body(message["error"]))
        elif kind == "shed":
            self._on_shed(held)

    def _on_ready(self, message: Message) -> None:
        self._reporting.ready(message)
        chunk, rows = self.settings.prefill_chunk, self.settings.prefill_rows
        self._desk.ledger = Ledger(
            message["steady_bytes"], chunk, rows, message["budget_bytes"], self._pressure
        )
        for model in self._residency.served[:1]:
            self._residency.load(model, self._desk.ledger)
        self._next_tick = 0.0

    def _on_loaded(self, message: Message) -> None:
        assert self._desk.ledger is not None
        log.info("model loaded", model=message["model"], seconds=round(message["load_seconds"], 3))
        self._residency.loaded(ModelCard.from_json(message["card"]), self._desk.ledger)
        self._reporting.changed()
        self._next_tick = 0.0

    def _on_sized(self, held: Held, row: Row) -> None:
        """The prompt was counted: hold exactly what it needs, or let it wait, or say that it never fits."""
        ledger = self._desk.ledger
        assert ledger is not None
        need = alone_bytes(ledger.cards[held.rec.meta.model], row, ledger.chunk_tokens)
        fits = ledger.resize(held.holder, row)
        meta = replace(
            held.rec.meta,
            prompt_tokens=row.prompt_tokens,
            max_tokens=row.max_tokens,
            counted=True,
            estimated_bytes=need,
            reserved_bytes=ledger.share_bytes(held.holder),
            granted_at=self._clock() if fits else None,
        )
        held.rec = replace(held.rec, meta=meta)
        if fits:
            self._desk.grant(held)
        elif need > ledger.budget_bytes:
            self._desk.fail(held, never_fits(held.rec.id, need, ledger.budget_bytes))
        elif held.rec.envelope["request"].get("on_insufficient_memory") == "fail":
            message = f"insufficient memory now: the job needs {gib(need)}"
            self._desk.fail(held, ClientError("insufficient_memory", message, retry_after=1))
        else:
            self._desk.put_back(held, "larger than estimated")

    def _on_shed(self, held: Held) -> None:
        assert self._desk.ledger is not None
        self._desk.ledger.ran_out(self._clock())
        meta = replace(held.rec.meta, sheds=held.rec.meta.sheds + 1)
        log.warning("job shed", job=held.rec.id, sheds=meta.sheds)
        self._reporting.count("sheds")
        self._desk.put_back(held, "memory", replace(meta, alone=meta.alone or meta.sheds >= _SHEDS_MOST))

    def _on_raised(self, message: Message) -> None:
        jobs, text = self._desk.find(message["keys"]), message["text"][:300]
        fault = classify_text(message["text"])
        log.warning("engine raised", fault=fault.value, jobs=len(jobs), text=text)
        company = max(len(jobs), len(self._desk.granted))
        self._desk.judge(
            jobs, Failure(fault, died=False, company=company, detail=text, limit_bytes=self._limit)
        )
        if is_suspect(fault, message["text"]):
            self.supervisor.kill()

    def _engine_died(self) -> None:
        death = self.supervisor.bury()
        self._breaker.died()
        self._reporting.count("engine_deaths")
        # Where nothing was computed, it died of a prompt that it counted, or of a model that it loaded.
        at_work = self._desk.find(sorted(self._desk.granted or self.running))
        loading = self._residency.reset()
        if loading is not None:
            reason = f"{loading} ended the engine while it was loaded: {death.detail}"
            self._residency.give_up(loading, reason, self._desk.ledger)
        company = len(at_work) + (loading is not None)
        failure = Failure(
            death.fault, died=True, company=company, detail=death.detail, limit_bytes=self._limit
        )
        self._desk.judge(at_work, failure)
        self._desk.put_back_all("engine lost")
        self._desk.ledger = None
        if not self._breaker.open:
            self.supervisor.start()

    @property
    def _limit(self) -> int:
        return self.supervisor.account.budget_bytes

    # Time passes

    def _tick(self) -> None:
        if not self.supervisor.running and not self._breaker.open:
            self.supervisor.start()
        if self._residency.loading is not None:
            self.supervisor.kill_if_silent(_LOAD_SECONDS)
        elif self.running or self._desk.ledger is None:
            self.supervisor.kill_if_silent(self.settings.progress_timeout)
        elif time.monotonic() >= self._next_measure:
            self._next_measure = time.monotonic() + _MEASURE_SECONDS
            self.supervisor.send({"kind": "measure"})
        self._desk.end_unwanted()
        self._lifecycle.end_overdue()
        self._report()

    def _report(self) -> None:
        engine = "ready"
        if not self.supervisor.running:
            engine = "cooling down"
        elif self._desk.ledger is None:
            engine = "starting"
        elif self._residency.loading is not None:
            engine = f"loading {self._residency.loading}"
        self._reporting.report(
            engine,
            self._desk.ledger,
            self.running.values(),
            active_bytes=self.supervisor.account.active_bytes,
            tokens_per_second=self._pace.tokens_per_second,
            served=self._residency.served,
        )
