"""What follows from what the engine says: steps written, jobs sized, sheds and deaths dealt with."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import structlog

from scheduler.blame import Failure, Fault
from scheduler.card import ModelCard
from scheduler.errors import ClientError, gib
from scheduler.footprint import alone_bytes
from scheduler.foresight import Row
from scheduler.holding import Held
from scheduler.ledger import Ledger
from scheduler.pressure import Pressure
from scheduler.reasons import Reason
from scheduler.settings import Settings
from workers.breaker import COOLDOWN_SECONDS, Breaker
from workers.classifier import Recovery, buffer_sizes, classify_text, exit_name
from workers.desk import Desk
from workers.joined_steps import note_begun, progress_of
from workers.marking import engine_died
from workers.pace import Loops, Pace
from workers.planning import Planning
from workers.publishing import Publishing
from workers.reporting import Reporting
from workers.residency import Residency
from workers.sharing import Sharing
from workers.supervisor import Supervisor
from workers.unsaid import loggable
from workers.wire import Message, WireBroken

log = structlog.get_logger(__name__)

_SHEDS_MOST: Final = 8
"""Times that a job may be shed before it runs alone."""


class Hearing:
    """Listens to one engine, with whom the worker has beside it; ``clock`` tells Unix seconds."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        desk: Desk,
        residency: Residency,
        reporting: Reporting,
        publishing: Publishing,
        planning: Planning,
        clock: Callable[[], float],
        sharing: Sharing,
    ) -> None:
        self._settings, self._supervisor, self._desk = settings, supervisor, desk
        self._residency, self._reporting, self._clock = residency, reporting, clock
        self._publishing, self._planning, self._sharing = publishing, planning, sharing
        self.loops = Loops()
        self.pace, self.breaker = Pace(supervisor.clock), Breaker(supervisor.clock)
        self.news = False
        """Whether something was said that the fleet should hear of now."""
        self._pressure = Pressure()
        self._heard: collections.deque[Message] = collections.deque()
        self._broken = False
        desk.insistence.meanwhile = self._overhearing

    @property
    def unread(self) -> bool:
        """Whether something was received that a failing store kept from being done."""
        return bool(self._heard) or self._broken

    def hear(self, *, more: bool) -> None:
        """Do what the engine said, in order; what a failing store interrupts is taken up again; ``more`` may be read."""
        if more:
            try:
                self._heard += note_begun(self._desk, self._supervisor.receive())
            except WireBroken:
                self._broken = True
        spoke = bool(self._heard)
        while self._heard:
            steps: list[Message] = []
            computed = 0
            while self._heard and self._heard[0]["kind"] == "step":
                message = self._heard.popleft()
                steps += message["steps"]
                prompt_tokens = self._desk.note_progress(message)
                computed += prompt_tokens
                theirs = message.get("computed", {}).keys() <= self._desk.running.keys()
                if "seconds" in message and theirs:  # else prompts were computed that nobody counts any more
                    self.loops.note(message["seconds"], prompt_tokens)
            self._keep_pace(steps, computed)
            self._write(steps)  # a job's tokens before its shedding
            self._on_sizes()
            if self._heard and self._heard[0]["kind"] != "step":
                self._on(self._heard.popleft())
        if spoke:
            self._supervisor.heard()
        if self._broken:
            self._broken = False
            self._engine_died()

    @contextmanager
    def _overhearing(self) -> Iterator[None]:
        """While a step waits for the store, hear those after it."""
        with self._supervisor.overhearing():
            yield
        try:
            self._heard += note_begun(self._desk, self._supervisor.kept())
        except WireBroken:
            self._broken = True

    def _write(self, steps: Sequence[Message]) -> None:
        if not steps:
            return
        if self._desk.ledger is not None:
            self._desk.ledger.note_cache(self._supervisor.account.cache_bytes)
        self._desk.write(progress_of(self._desk, steps))

    def _keep_pace(self, steps: Sequence[Message], computed: int) -> None:
        made = sum(len(step.get("tokens", ())) for step in steps)
        if made or computed:
            self.pace.count(made, computed, len(self._desk.granted))

    def _on(self, message: Message) -> None:
        does = {
            "host": lambda said: self._sharing.ask(said["pools"]),
            "ready": self._on_ready,
            "measuring": self._on_measuring,
            "loaded": self._on_loaded,
            "load_failed": self._on_load_failed,
            "measured": self._on_measured,
            "learnt": self._on_learnt,
            "raised": self._on_raised,
            "removed": self._on_removed,
        }.get(message["kind"])
        if does is not None:
            does(message)
        elif (held := self._desk.running.get(message.get("key", ""))) is not None:
            self._on_job(held, message)

    def _on_measuring(self, _: Message) -> None:
        self._residency.measuring = self.news = True
        self._reporting.changed()

    def _on_measured(self, message: Message) -> None:
        self._reporting.ready(message)
        self._pressure.read(message["budget_bytes"], self._clock())

    def _on_learnt(self, message: Message) -> None:
        if self._desk.ledger is not None:
            card = ModelCard.from_json(message["card"])
            self._desk.ledger.learn(card)
            self._publishing.learnt(card)
            self._reporting.changed()

    def _on_load_failed(self, message: Message) -> None:
        model, reason = message["model"], message["reason"]
        refused = ClientError("model_not_found", reason, param="model") if message["unsupported"] else None
        self._residency.unloadable(model, reason, self._desk.ledger, refused=refused)

    def _on_job(self, held: Held, message: Message) -> None:
        if message["kind"] == "refused":
            self._desk.fail(held, ClientError.from_body(message["error"]))
        elif message["kind"] == "shed":
            self._on_shed(held)

    def _on_ready(self, message: Message) -> None:
        self._on_measured(message)
        chunk, rows = self._settings.prefill_chunk, self._settings.prefill_rows
        self._desk.ledger = Ledger(message["steady_bytes"], chunk, rows, self._pressure)
        for model in self._residency.served[:1]:
            self._residency.load(model, self._desk.ledger)
        self.news = True

    def _on_loaded(self, message: Message) -> None:
        assert self._desk.ledger is not None
        seconds = {name: round(message[name], 3) for name in ("load_seconds", "probe_seconds")}
        log.info("model loaded", model=message["model"], **seconds)
        card = ModelCard.from_json(message["card"])
        self._residency.loaded(card, self._desk.ledger)
        self._publishing.loaded(card, message["prompts"])
        self._reporting.changed()
        self.news = True

    def _on_sizes(self) -> None:
        """Grant jobs whose prompts were counted together as many at a time as the engine computes together."""
        fitting: list[Held] = []
        try:
            while self._heard and self._heard[0]["kind"] == "sized":
                message = self._heard.popleft()
                held = self._desk.running.get(message["key"])
                if held is not None and self._fits(held, message):
                    fitting.append(held)
                if len(fitting) >= self._settings.prefill_rows:
                    self._grant(fitting)
        finally:
            self._grant(fitting)

    def _grant(self, fitting: list[Held]) -> None:
        """Let the engine compute these, one right behind the other."""
        if fitting and not self._desk.granted:
            self.pace.begin()
        while fitting:
            self._desk.grant(fitting.pop(0))

    def _fits(self, held: Held, message: Message) -> bool:
        """The prompt was counted: hold exactly what it needs; else let it wait, or say that it never fits."""
        ledger = self._desk.ledger
        assert ledger is not None
        row, so_far = Row(message["prompt_tokens"], message["max_tokens"]), len(held.tokens)
        whole = Row(row.prompt_tokens + so_far, max(1, row.max_tokens - so_far), resumed_tokens=so_far)
        need = alone_bytes(ledger.cards[held.rec.meta.model], row, ledger.chunk_tokens)
        self._desk.tell_progress()
        fits = ledger.resize(held.holder, self._planning.sized(held, whole))
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
            return True
        if need > ledger.budget_bytes:  # counted, it is refused at the next look, or left to a larger worker
            self._desk.put_back(held, Reason.LARGER_THAN_BUDGET)
        elif not so_far and held.rec.envelope["request"].get("on_insufficient_memory") == "fail":
            error = ClientError(
                "insufficient_memory",
                f"insufficient memory now: the job needs {gib(need)}",
                retry_after=self._desk.wait_seconds(held.rec),
                estimated_bytes=need,
                limit_bytes=ledger.budget_bytes,
            )
            self._desk.fail(held, error)
        else:
            self._desk.put_back(held, Reason.LARGER_THAN_ESTIMATED)
        return False

    def _on_shed(self, held: Held) -> None:
        assert self._desk.ledger is not None
        self._desk.ledger.ran_out(self._clock())
        meta = replace(held.rec.meta, sheds=held.rec.meta.sheds + 1)
        log.warning("job shed", job=held.rec.id, sheds=meta.sheds)
        most = 1 if meta.sheds >= _SHEDS_MOST else meta.company_most
        self._desk.shed(held, replace(meta, company_most=most))

    def _on_removed(self, message: Message) -> None:
        self._desk.leaving.discard(message["key"])

    def _on_raised(self, message: Message) -> None:
        jobs, text = self._desk.find(message["keys"]), message["text"]
        row = classify_text(text)
        told = {"fault": row.fault.value, "cure": row.recovery.value, "text": loggable(text)}
        log.warning("engine raised", jobs=len(jobs), **told)
        company = max(len(message["keys"]), len(self._desk.granted))
        need, most = buffer_sizes(text)
        failure = Failure(
            row.fault, died=False, company=company, limit_bytes=most or self._limit, need_bytes=need
        )
        self._desk.judge(jobs, failure)
        if row.recovery is Recovery.NEW_PROCESS:
            self._supervisor.kill()

    def _engine_died(self) -> None:
        death = self._supervisor.bury()
        self.breaker.died()
        # Where nothing was computed, it died of a prompt that it had begun to count, or of a model that it loaded.
        at_work = self._desk.find(sorted(self._desk.granted or self._desk.begun))
        loading = self._residency.reset()
        # Those whose prompts it counted were there too, though nobody lays it to them while others computed.
        company = len(self._desk.running) + len(self._desk.leaving) + (loading is not None)
        exited = exit_name(death.exit_code)
        self._reporting.note(engine_died(exited, len(self._desk.running), self._clock()))
        log.warning("its jobs", jobs=sorted(self._desk.running), company=company)
        failure = Failure(death.fault, died=True, company=company, exit_name=exited, limit_bytes=self._limit)
        if loading is not None and death.fault is not Fault.VICTIM:
            reason = f"{loading} ended the engine while it was loaded ({failure.words})"
            # Where memory ran out, the host's other processes may have taken it.
            self._residency.blame(loading, reason, alone=not at_work and not failure.memory)
        self._desk.judge(at_work, failure)
        self._desk.put_back_all(Reason.ENGINE_LOST)
        self._desk.leaving.clear()
        self._desk.ledger = None
        if self.breaker.open:
            log.error("engines die again and again: cooling down", seconds=COOLDOWN_SECONDS)
        else:
            self._supervisor.start()

    @property
    def _limit(self) -> int:
        return self._supervisor.account.budget_bytes
