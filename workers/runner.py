"""A worker's loop around its engine: claims out, messages in, each step written in one round trip."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from rq.job import Job

from scheduler.blame import Failure, Fault, judge_failure
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.footprint import ModelCard, Row, alone_bytes
from scheduler.holding import Held, Holding, Progress
from scheduler.job import State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle, never_fits
from scheduler.record import Meta, Outcome
from workers.claiming import Claiming
from workers.classifier import classify_text
from workers.pace import Breaker, Pace
from workers.reporting import Reporting
from workers.residency import Residency
from workers.supervisor import Supervisor
from workers.wire import Message, WireBroken

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
_STORE_RETRY_SECONDS: Final = 0.2
_SUSPECT_AFTER: Final = frozenset(
    {Fault.RESOURCE_LIMIT, Fault.VICTIM, Fault.GPU_TIMEOUT}
)  # a new process cures these
_SHEDS_MOST: Final = 8  # times that a job may be shed before it runs alone


class Runner:
    """What one worker runs.

    Args:
        lifecycle: the store and the verbs.
        name: the worker's.
        queues: names of the queues that it serves.
        clock: Unix seconds.
    """

    def __init__(
        self, lifecycle: Lifecycle, name: str, queues: Sequence[str], clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = lifecycle.settings
        self.running: dict[str, Held] = {}
        self.ledger: Ledger | None = None
        self.supervisor = Supervisor(self.settings)
        self._lifecycle, self._clock = lifecycle, clock
        self._holding = Holding(lifecycle.queue, name, clock)
        self._residency = Residency(self.settings.model_sources, self.supervisor.send)
        self._claiming = Claiming(lifecycle, self._holding, queues, clock, self._residency)
        self._granted: set[str] = set()
        self._pace, self._breaker = Pace(clock), Breaker(clock)
        self._reporting = Reporting(lifecycle, name, queues, clock)
        self._next_tick = 0.0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    # The loop's parts

    def open(self) -> None:
        """Start the engine and say that this worker lives."""
        self.supervisor.start()
        self._report()

    def close(self) -> None:
        """End the engine and leave the fleet."""
        self.supervisor.stop()
        self._reporting.withdraw()

    def poke(self) -> None:
        """End a wait of :meth:`pump`; from any thread, or a signal's handler."""
        with contextlib.suppress(BlockingIOError):  # it is full of pokes already
            os.write(self._wake_write, b".")

    def pump(self, timeout_seconds: float) -> None:
        """Wait until the engine speaks, somebody pokes or time is up; then do what follows from it."""
        sources: list[int] = [self._wake_read]
        if self.supervisor.running:
            sources.append(self.supervisor.fileno())
        until_tick = max(0.0, self._next_tick - self._clock())
        ready, _, _ = select.select(sources, [], [], min(timeout_seconds, until_tick))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if len(ready) > (self._wake_read in ready):
            self._hear()
        if self._clock() >= self._next_tick:
            self._next_tick = self._clock() + TICK_SECONDS
            self._tick()

    def claim(self) -> Held | None:
        """The next job that fits, its memory reserved; None where none does, or the engine is not ready."""
        if self.ledger is None or any(held.rec.meta.alone for held in self.running.values()):
            return None  # a job that runs alone has no company, so that blame is certain
        held = self._claiming.claim(self.ledger)
        if held is None:
            self._claiming.load_wanted(self.ledger)
            return None
        return self._hold(held)

    def claim_only(self, job_id: str) -> Held | None:
        """A certain job, for a worker that RQ gave it to; None where it is not this worker's to run yet."""
        if self.ledger is None or self.running:
            return None
        rec = self._lifecycle.get(job_id)
        if rec.state is not State.QUEUED:
            return None
        if rec.meta.model not in self.ledger.cards:
            self._claiming.load(rec, self.ledger)
            return None
        held = self._claiming.take(rec, self.ledger)
        return self._hold(held) if held is not None else None

    def _hold(self, held: Held) -> Held:
        self.running[_key(held)] = held
        self._reporting.changed()
        return held

    def launch(self, held: Held) -> None:
        """Hand a claimed job to the engine."""
        meta = held.rec.meta
        if len(self.running) == 1:
            self.supervisor.heard()
        assert self.ledger is not None
        self.supervisor.send(
            {
                "kind": "run",
                "key": _key(held),
                "model": meta.model,
                "request": held.rec.envelope["request"],
                "priority": meta.priority,
                "claimed_at": held.claimed_at,
                "so_far": held.tokens,
                "max_tokens": meta.max_tokens,
                "seed": meta.seed,
                "reserved_prompt_tokens": self.ledger.holders[held.holder].prompt_tokens,
            }
        )

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End held jobs whose clients do not want them any more."""
        wanted = set(job_ids)
        self._end([(h, Outcome(State.CANCELLED)) for h in list(self.running.values()) if h.rec.id in wanted])

    @property
    def settled(self) -> bool:
        """Whether nothing waits that this worker could run."""
        return not self.running and not self._claiming.anything_waits()

    def reconcile(self) -> None:
        """Mend the indexes beside RQ's lists."""
        self._lifecycle.queue.reconcile()

    def rq_job(self, held: Held) -> Job:
        """RQ's job for a held one."""
        return self._lifecycle.queue.rq_job(held.rec)

    def check_cancelled(self) -> None:
        """End held jobs that were marked while nobody listened."""
        self.cancel([held.rec.id for held in self._holding.cancel_wanted(self.running.values())])

    def put_back_all(self, reason: str) -> None:
        """Let every held job wait again, in the order it came."""
        for held in sorted(self.running.values(), key=lambda held: held.rec.id, reverse=True):
            self._put_back(held, reason)

    # What the engine says

    def _hear(self) -> None:
        try:
            messages = self.supervisor.receive()
        except WireBroken:
            self._engine_died()
            return
        steps = [message for message in messages if message["kind"] == "step"]
        for message in messages:
            if message["kind"] != "step":
                self._on(message)
        if steps:
            self._on_steps(steps)

    def _on(self, message: Message) -> None:
        kind, held = message["kind"], self.running.get(message.get("key", ""))
        if kind == "ready":
            self._reporting.ready(message)
            self.ledger = Ledger(
                message["budget_bytes"], self.settings.prefill_chunk, self.settings.prefill_rows
            )
            for model in self._residency.served[:1]:
                self._residency.load(model, self.ledger)
            self._next_tick = 0.0
        elif kind == "loaded":
            assert self.ledger is not None
            log.info("model loaded", model=message["model"], seconds=round(message["load_seconds"], 3))
            self._residency.loaded(ModelCard.from_json(message["card"]), self.ledger)
            self._reporting.changed()
            self._next_tick = 0.0
        elif kind == "load_failed":
            self._residency.give_up(message["model"], message["reason"])
        elif kind == "sized" and held is not None:
            self._on_sized(held, message["prompt_tokens"], message["max_tokens"])
        elif kind == "refused" and held is not None:
            self._end([(held, Outcome(State.FAILED, error=message["error"]))])
        elif kind == "shed" and held is not None:
            self._on_shed(held)
        elif kind == "raised":
            self._on_raised(message)

    def _on_sized(self, held: Held, prompt_tokens: int, max_tokens: int) -> None:
        """The prompt was counted: hold exactly what it needs, or let it wait, or say that it never fits."""
        assert self.ledger is not None
        row = Row(prompt_tokens, max_tokens)
        card = self.ledger.cards[held.rec.meta.model]
        need = alone_bytes(card, row, self.ledger.chunk_tokens)
        fits = self.ledger.resize(held.holder, row)
        meta = replace(
            held.rec.meta,
            prompt_tokens=prompt_tokens,
            counted=True,
            estimated_bytes=need,
            reserved_bytes=self.ledger.share_bytes(held.holder),
        )
        held.rec = replace(held.rec, meta=meta)
        if fits:
            self._granted.add(_key(held))
            self.supervisor.send({"kind": "grant", "key": _key(held)})
        elif need > self.ledger.budget_bytes:
            error = never_fits(held.rec.id, need, self.ledger.budget_bytes)
            self._end([(held, Outcome(State.FAILED, error=error.body()))])
        else:
            self.supervisor.send({"kind": "remove", "key": _key(held)})
            self._put_back(held, "larger than estimated", meta)

    def _on_steps(self, messages: Sequence[Message]) -> None:
        """Write what came, several steps at once where the worker is behind."""
        deltas: dict[str, dict[str, Any]] = {}
        outcomes: dict[str, Outcome] = {}
        for step in (step for message in messages for step in message["steps"]):
            key = step["key"]
            if key not in self.running:
                continue
            self._pace.count(len(step.get("tokens", ())))
            _join(deltas.setdefault(key, {}), step)
            if "result" in step:
                length = step["result"]["finish_reason"] == "length"
                outcomes[key] = Outcome(State.INCOMPLETE if length else State.COMPLETED, step["result"])
                held = self.running[key]
                held.rec = replace(held.rec, meta=replace(held.rec.meta, peak_bytes=step.get("peak_bytes")))
        progress = []
        for key, delta in deltas.items():
            held = self.running[key]
            meta = None if held.tokens or key in outcomes else replace(held.rec.meta, output_seen=True)
            progress.append(Progress(held, delta or None, outcomes.get(key), meta))
        if self.ledger is not None:
            self.ledger.note_cache(messages[-1]["memory"]["cache_bytes"])
        self._write([item for item in progress if item.delta or item.outcome])

    def _on_shed(self, held: Held) -> None:
        assert self.ledger is not None
        self.ledger.ran_out(self._clock())
        meta = replace(held.rec.meta, sheds=held.rec.meta.sheds + 1)
        log.warning("job shed", job=held.rec.id, sheds=meta.sheds)
        self._reporting.count("sheds")
        self._put_back(held, "memory", replace(meta, alone=meta.alone or meta.sheds >= _SHEDS_MOST))

    def _on_raised(self, message: Message) -> None:
        from_engine = [self.running[key] for key in message["keys"] if key in self.running]
        fault = classify_text(message["text"])
        limit = self.ledger.budget_bytes if self.ledger else 0
        log.warning("engine raised", fault=fault.value, jobs=len(from_engine), text=message["text"][:300])
        self._judge(from_engine, Failure(fault, False, len(from_engine), message["text"][:300], limit))
        if fault in _SUSPECT_AFTER:
            self.supervisor.kill()

    def _engine_died(self) -> None:
        death = self.supervisor.bury()
        self._breaker.died()
        self._reporting.count("engine_deaths")
        limit = self.ledger.budget_bytes if self.ledger else 0
        at_work = [held for key, held in self.running.items() if key in self._granted]
        innocent = [held for key, held in self.running.items() if key not in self._granted]
        loading = self._residency.reset()
        if loading is not None and not at_work:
            self._residency.give_up(
                loading, f"{loading} ended the engine while it was loaded: {death.detail}"
            )
        self._judge(at_work, Failure(death.fault, True, len(at_work), death.detail, limit))
        for held in innocent:
            self._put_back(held, "engine lost")
        self.ledger = None
        if not self._breaker.open:
            self.supervisor.start()

    def _judge(self, jobs: Sequence[Held], failure: Failure) -> None:
        """Put back or end the jobs of a failed batch."""
        if failure.memory and self.ledger is not None:
            self.ledger.ran_out(self._clock())
            self._reporting.count("out_of_memory")
        for held in sorted(jobs, key=lambda held: held.rec.id, reverse=True):
            meta = held.rec.meta
            most = held.rec.envelope["request"].get("max_attempts") or self.settings.max_attempts
            wait = self._lifecycle.wait_seconds(meta.model, meta.estimated_bytes or 0, 0)
            verdict = judge_failure(meta, failure, most, wait)
            if isinstance(verdict, ClientError):
                self._end([(held, Outcome(State.FAILED, error=verdict.body()))])
            else:
                self._put_back(held, failure.fault.value, verdict)

    # What it does to jobs

    def _end(self, endings: Sequence[tuple[Held, Outcome]]) -> None:
        for held, _ in endings:
            self.supervisor.send({"kind": "remove", "key": _key(held)})
        self._write([Progress(held, None, outcome) for held, outcome in endings])

    def _write(self, progress: Sequence[Progress]) -> None:
        """Write a step, as often as it takes; let go of what ended or is not held any more."""
        if not progress:
            return
        swaps = self._holding.prepare(progress)
        lost = self._insist(lambda: self._holding.send(swaps, [item.held for item in progress]))
        for item in progress:
            if item.outcome is not None:
                self._reporting.count(item.outcome.state.value)
                self._let_go(item.held)
            elif item.held in lost:
                log.warning("job lost to another attempt", job=item.held.rec.id)
                self.supervisor.send({"kind": "remove", "key": _key(item.held)})
                self._let_go(item.held)

    def _put_back(self, held: Held, reason: str, meta: Meta | None = None) -> None:
        swap = self._holding.put_back(held, reason, meta)
        self._insist(lambda: self._holding.send([swap], [held]))
        self._let_go(held)

    def _let_go(self, held: Held) -> None:
        self.running.pop(_key(held), None)
        self._granted.discard(_key(held))
        if self.ledger is not None:
            self.ledger.release(held.holder)
        self._reporting.changed()

    def _insist(self, write: Callable[[], list[Held]]) -> list[Held]:
        """Do a write until the store answers; meanwhile the engine goes on into its pipe."""
        while True:
            try:
                return write()
            except StoreUnavailable as error:
                log.warning("the store does not answer", error=str(error))
                time.sleep(_STORE_RETRY_SECONDS)

    # Time passes

    def _tick(self) -> None:
        if not self.supervisor.running and not self._breaker.open:
            self.supervisor.start()
        if self._granted and self._residency.loading is None:
            self.supervisor.kill_if_silent(self.settings.progress_timeout)
        now = self._clock()
        late = [held for held in self.running.values() if _overran(held, now)]
        for held in late:
            error = ClientError(
                "engine_timeout", "the job ran for longer than its run_timeout", retry_after=1
            )
            self._end([(held, Outcome(State.FAILED, error=error.body()))])
        self.check_cancelled()
        self._lifecycle.end_overdue()
        self._report()

    def _report(self) -> None:
        engine = "ready"
        if not self.supervisor.running:
            engine = "cooling down"
        elif self.ledger is None:
            engine = "starting"
        elif self._residency.loading is not None:
            engine = f"loading {self._residency.loading}"
        self._reporting.report(
            engine,
            self.ledger,
            self.running.values(),
            active_bytes=self.supervisor.account.active_bytes,
            tokens_per_second=self._pace.tokens_per_second,
            served=self._residency.served,
        )


def _key(held: Held) -> str:
    """What the engine calls a job: a late word of an earlier attempt names another."""
    return f"{held.rec.id}/{held.lease.attempt}"


def _overran(held: Held, now: float) -> bool:
    limit = held.rec.envelope["request"].get("run_timeout")
    return limit is not None and now - held.claimed_at > limit


def _join(delta: dict[str, Any], step: Message) -> None:
    """Add a step's news to what a job's next event will say."""
    for name in ("tokens", "logprobs"):
        if step.get(name):
            delta[name] = [*delta.get(name, ()), *step[name]]
    for name in ("text", "reasoning"):
        if step.get(name):
            delta[name] = delta.get(name, "") + step[name]
