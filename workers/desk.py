"""The jobs that a worker has in hand: their reservations, their writes, their ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from scheduler.batch_account import Holder
from scheduler.blame import Failure, judge_failure
from scheduler.door import wanted
from scheduler.errors import ClientError
from scheduler.holding import Held, Holding, Progress
from scheduler.job import State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.preemption import Running
from scheduler.reasons import Reason
from scheduler.record import JobRecord, Meta
from scheduler.slots import Extent, Written
from scheduler.swap import STORE_ERRORS
from workers.insistence import Insistence
from workers.planning import Planning
from workers.reporting import Reporting
from workers.wire import Message
from workers.witness import Witness

log = structlog.get_logger(__name__)

_WAIT_UNKNOWN_SECONDS: Final = 10.0

TRIAL_TOKENS: Final = 64
"""So many a suspect must write in the company that it may have."""


class Desk:
    """What one worker holds.

    Args:
        lifecycle: the store and the verbs.
        holding: this worker's verbs; ``reporting`` counts them.
        tell: tells the engine.
        planning: how long answers are taken to become.
        clock: Unix seconds.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        holding: Holding,
        reporting: Reporting,
        tell: Callable[[Message], None],
        planning: Planning,
        clock: Callable[[], float],
    ) -> None:
        self.running: dict[str, Held] = {}
        self.granted: set[str] = set()
        """Keys of those that the engine computes; the others' prompts are being counted, or wait for that."""
        self.begun: set[str] = set()
        """Keys of those that the engine has in hand: it may die of them. It never heard of the others."""
        self.leaving: set[str] = set()
        """Of these, those let go of that the engine has not yet said it removed."""
        self.ledger: Ledger | None = None
        self.freed = False
        """Whether memory was given back since somebody last looked."""
        self.prompts_moved = False  # whether prompts were computed since
        self._left = False
        self._lifecycle, self._holding, self._reporting = lifecycle, holding, reporting
        self._tell, self._planning, self._clock = tell, planning, clock
        self.insistence, self.witness = Insistence(holding), Witness(reporting, lifecycle, clock)

    @property
    def bounds(self) -> dict[Holder, int]:
        """How much company the running jobs may have that may not have any, each until it has stood its trial.

        Who ends engines at a certain token does so at once where it goes on just before that; whoever writes on for a
        while is not kept from company for the rest of its life. If it fails again, it is tried again.
        """
        on_trial = (h for h in self.running.values() if len(h.tokens) - h.resumed_tokens < TRIAL_TOKENS)
        return {held.holder: most for held in on_trial if (most := held.rec.meta.company_most)}

    @property
    def lonely(self) -> bool:
        """Whether a job runs that must have no company: neither another job nor a model that is loaded."""
        return 1 in self.bounds.values()

    def take(self, held: Held) -> Held:
        """Hold a job that was just claimed."""
        self.running[key_of(held)] = held
        self.witness.claimed(held, self._share_bytes(held))
        return held

    def grant(self, held: Held) -> None:
        """Let the engine compute a job."""
        self.granted.add(key_of(held))
        self._tell({"kind": "grant", "key": key_of(held)})

    def note_progress(self, step: Message) -> int:
        """Take how far the engine is with prompts, by key, and how its caches are, by model.

        Returns:
            Tokens of prompts that it has computed since, those not counted that it had kept of other jobs.
        """
        computed, reused = 0, step.get("reused", {})
        for key, tokens in step.get("computed", {}).items():
            if key in self.running:
                held, kept = self.running[key], reused.get(key, 0)
                fresh = max(0, tokens - held.cached_tokens - kept)
                computed += fresh
                self.witness.counting.computed(held, fresh, kept)
                held.cached_tokens = tokens
                if key in reused and self.ledger is not None:
                    self.ledger.hasten(held.holder)
        self.prompts_moved = self.prompts_moved or computed > 0
        if "extents" in step:  # what those who left have given back is known from now on
            self.freed, self._left = self.freed or self._left, False
        for model, (prompts, decoding) in step.get("extents", {}).items():
            if self.ledger is not None:
                self.ledger.reach(model, (_extent(prompts), _extent(decoding)))
        return computed

    def footprint_ratio(self, held: Held, peak_bytes: int | None) -> float | None:
        """A job's reservation at its largest over what it took."""
        if self.ledger is None or not peak_bytes:
            return None
        promised = max(held.promised_bytes, self.ledger.share_bytes(held.holder))
        return round(promised / peak_bytes, 3)

    def tell_progress(self) -> None:
        """Let the account know how far each job is, and how long its answer is now taken to become."""
        assert self.ledger is not None
        for held in self.running.values():
            holder = held.holder
            if share := self.ledger.share_bytes(holder):
                held.promised_bytes = max(held.promised_bytes, share)
                meta = held.rec.meta
                progress = (len(held.tokens), held.cached_tokens, meta, self._planning.answers(meta.model))
                if progress != held.told:  # several looks follow upon one step
                    held.told = progress
                    self.ledger.advance(holder, held.computed_tokens, self._planning.now(held))
        self.ledger.settle()

    @property
    def preemptible(self) -> list[Running]:
        """Everything in hand, as preemption weighs it."""
        every = ((held, held.rec.meta) for held in self.running.values())
        return [Running(h.holder, m.priority, h.claimed_at, m.preemptions, m.company_most) for h, m in every]

    def preempt(self, holders: Iterable[Holder]) -> None:
        """Put jobs back to wait for a more urgent one."""
        chosen = set(holders)
        for held in self._youngest_first(h for h in self.running.values() if h.holder in chosen):
            meta = replace(held.rec.meta, preemptions=held.rec.meta.preemptions + 1)
            log.info("job preempted", job=held.rec.id, preemptions=meta.preemptions)
            self.put_back(held, Reason.PREEMPTED, meta)

    def find(self, keys: Iterable[str]) -> list[Held]:
        """Those of these that are held."""
        return [self.running[key] for key in keys if key in self.running]

    def write(self, progress: Sequence[Progress]) -> None:
        """Write a step, as often as it takes; let go of what ended or is not held any more."""
        if not progress:
            return
        swaps = self._holding.prepare(progress)
        lost = self.insistence.write(swaps, [item.held for item in progress])
        self.witness.wrote(progress, lost)
        for item in progress:
            if item.outcome is not None and item.held not in lost:
                self.witness.ended(item.held, item.outcome, self._share_bytes(item.held))
                self._let_go(item.held)
            elif item.held in lost:
                log.warning("job lost to another attempt", job=item.held.rec.id)
                self._dismiss(item.held)
                self._let_go(item.held)

    def end(self, held: Held, outcome: Outcome) -> None:
        """End a job that the engine may still compute."""
        self._dismiss(held)
        self.write([Progress(held, None, outcome)])

    def fail(self, held: Held, error: ClientError) -> None:
        """End a job with an error."""
        self.end(held, Outcome(State.FAILED, error=error.body()))

    def put_back(self, held: Held, reason: Reason, meta: Meta | None = None) -> None:
        """Let a job wait again."""
        self._dismiss(held)
        swap = self._holding.put_back(held, reason, meta)
        lost = self.insistence.write([swap], [held])
        self.witness.put_back(held, reason, self._share_bytes(held), lost)
        self._let_go(held)

    def put_back_all(self, reason: Reason) -> None:
        """Let every job wait again, in the order in which they came."""
        for held in self._youngest_first(self.running.values()):
            self.put_back(held, reason)

    def judge(self, jobs: Sequence[Held], failure: Failure) -> None:
        """Put back or end the jobs of a failed batch."""
        if failure.memory and self.ledger is not None:
            self.ledger.ran_out(self._clock())
        self.witness.failed(jobs, failure)
        for held in self._youngest_first(jobs):
            meta = held.rec.meta
            wish = held.rec.envelope["request"].get("max_attempts")
            most = wish if isinstance(wish, int) else self._lifecycle.settings.max_attempts
            wait = self.wait_seconds(held.rec)
            verdict = judge_failure(meta, failure, most, wait)
            if isinstance(verdict, ClientError):
                self.fail(held, verdict)
            else:
                self.put_back(held, Reason(failure.fault.value), verdict)

    def cancel(self, job_ids: Iterable[str]) -> None:
        """End jobs whose clients do not want them any more."""
        wanted = set(job_ids)
        for held in [held for held in self.running.values() if held.rec.id in wanted]:
            self.end(held, Outcome(State.CANCELLED))

    def end_unwanted(self) -> None:
        """End jobs that were cancelled while nobody listened, or that ran for too long."""
        self.cancel([held.rec.id for held in self._holding.cancel_wanted(self.running.values())])
        now = self._clock()
        for held in list(self.running.values()):
            limit = held.rec.envelope["request"].get("run_timeout")
            if isinstance(limit, int | float) and (ran := held.ran_seconds(now)) > limit:
                message = f"the job ran for {ran:.1f} s; its run_timeout is {limit:g} s"
                self.fail(held, ClientError("run_timeout", message, param="run_timeout"))

    def _youngest_first(self, jobs: Iterable[Held]) -> list[Held]:
        """So that each, put at its queue's front, stands behind those that came before it."""
        return sorted(jobs, key=lambda held: held.rec.id, reverse=True)

    def wait_seconds(self, rec: JobRecord) -> float:
        """What to tell a client who should come back; the store need not answer for it."""
        try:
            return self._lifecycle.retry_seconds(wanted(rec))
        except STORE_ERRORS:
            return _WAIT_UNKNOWN_SECONDS

    def shed(self, held: Held, meta: Meta) -> None:
        """Let a job wait again since memory ran short."""
        self.put_back(held, Reason.MEMORY, meta)

    def _share_bytes(self, held: Held) -> int:
        return self.ledger.share_bytes(held.holder) if self.ledger is not None else 0

    def _dismiss(self, held: Held) -> None:
        self.leaving |= self.granted & {key_of(held)}
        self._tell({"kind": "remove", "key": key_of(held)})

    def _let_go(self, held: Held) -> None:
        self.running.pop(key_of(held), None)
        self.granted.discard(key_of(held))
        self.begun.discard(key_of(held))
        if self.ledger is not None:
            self.ledger.release(held.holder)
        self.freed = self._left = True
        self._reporting.changed()


def key_of(held: Held) -> str:
    """What the engine calls a job: a late word of an earlier attempt names another."""
    return f"{held.rec.id}/{held.lease.attempt}"


def run_message(held: Held) -> Message:
    """What asks the engine to run a job."""
    meta = held.rec.meta
    return {
        "kind": "run",
        "key": key_of(held),
        "model": meta.model,
        "request": held.rec.envelope["request"],
        "priority": meta.priority,
        "claimed_at": held.claimed_at,
        "so_far": held.tokens,
        "max_tokens": meta.max_tokens,
        "seed": meta.seed,
        "scope": meta.owner if meta.keyed else "",
    }


def _extent(told: list[Any] | None) -> Extent | None:
    if told is None:
        return None
    rows, longest, caches = told
    return Extent(rows, longest, tuple(Written(*written) for written in caches))
