"""Jobs on a board instead of a server: what claims and desks of workers ask of a store, in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Final

from scheduler.batch_account import Holder
from scheduler.forecast import Rates
from scheduler.holding import Before, Held, Progress
from scheduler.job import PRIORITIES, Lease, State
from scheduler.ledger import Ledger
from scheduler.outcome import Outcome
from scheduler.record import JobRecord, Meta
from scheduler.settings import Settings
from scheduler.tally import Tally
from tests.cards import PLAIN
from tests.plans import learned
from workers.claiming import Claiming
from workers.desk import Desk
from workers.residency import Residency

BUDGET: Final = PLAIN.weights_bytes + 700_000
RATES: Final = Rates(0.05, 0.001)
SETTINGS: Final = Settings(max_batch=4, max_passes=4, max_preemptions=2)


@dataclass
class Board:
    """Every job, and the three queues."""

    jobs: dict[str, JobRecord] = field(default_factory=dict)
    queues: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in PRIORITIES})
    passes: Counter[str] = field(default_factory=Counter)
    preempted: Counter[str] = field(default_factory=Counter)
    """How often each was put back for that reason."""
    now: float = 1000.0

    def submit(self, priority: str, prompt_tokens: int, max_tokens: int) -> None:
        """A job comes to wait."""
        self.now += 0.1
        meta = Meta(
            model=PLAIN.model,
            priority=priority,
            prompt_tokens=prompt_tokens,
            counted=True,
            max_tokens=max_tokens,
        )
        job_id = f"job_{len(self.jobs):03}"
        self.jobs[job_id] = JobRecord(job_id, State.QUEUED, meta, self.now, self.now, {"request": {}})
        self.queues[priority].append(job_id)

    def wait_again(self, job_id: str, meta: Meta) -> None:
        """A job goes to its queue's front."""
        self.jobs[job_id] = replace(self.jobs[job_id], state=State.QUEUED, lease=None, meta=meta)
        self.queues[meta.priority].insert(0, job_id)

    def heads(
        self, names: Sequence[str], count: int, wanted: Callable[[JobRecord], bool]
    ) -> list[list[tuple[JobRecord, int]]]:
        """The first jobs of each queue."""
        found = [[self.jobs[job_id] for job_id in self.queues[name]] for name in names]
        return [[(rec, self.passes[rec.id]) for rec in recs if wanted(rec)][:count] for recs in found]

    def runnable(self, job_id: str) -> bool:
        """Whether a job's list is the place that it is run from."""
        return job_id in self.jobs

    def end_waiting(self, rec: JobRecord, outcome: Outcome) -> None:
        """A job ends that nobody holds."""
        self.queues[rec.meta.priority].remove(rec.id)
        self.jobs[rec.id] = rec.ended(outcome, self.now)

    def held_by(self, worker: str) -> set[Holder]:
        """The jobs that are in progress there, by their attempts."""
        leases = [(rec.id, Lease.parse(rec.lease)) for rec in self.jobs.values() if rec.lease]
        return {Holder(job_id, lease.attempt) for job_id, lease in leases if lease.worker == worker}

    def recover(self, worker: str) -> None:
        """Its lease lapsed: its jobs wait again."""
        for holder in sorted(self.held_by(worker), key=lambda each: each.job_id, reverse=True):
            self.wait_again(holder.job_id, self.jobs[holder.job_id].meta)


@dataclass
class BoardHolding:
    """A worker's verbs: each changes a job only under the lease of its attempt."""

    board: Board
    worker: str

    def read_before(self, rec: JobRecord, others: Sequence[str]) -> Before:
        """The job as it waits, and which of the others do."""
        waiting = frozenset(job_id for job_id in others if self.board.jobs[job_id].state is State.QUEUED)
        return Before(self.board.jobs[rec.id], [], waiting)

    def claim(
        self, rec: JobRecord, meta: Meta, passed: Sequence[str], before: Before | None = None
    ) -> Held | None:
        """Take a job that waits."""
        if rec.id not in self.board.queues[meta.priority]:
            return None
        self.board.queues[meta.priority].remove(rec.id)
        self.board.passes.update(passed)
        lease = Lease(self.worker, meta.attempt + 1)
        meta = replace(meta, attempt=lease.attempt)
        taken = replace(rec, state=State.IN_PROGRESS, lease=str(lease), meta=meta)
        self.board.jobs[rec.id] = taken
        return Held(
            taken, 1, [7] * meta.made_tokens, claimed_at=self.board.now, resumed_tokens=meta.made_tokens
        )

    def prepare(self, progress: Sequence[Progress]) -> list[Callable[[], bool]]:
        """What a step changes."""
        return [lambda item=item: self._step(item) for item in progress]

    def put_back(self, held: Held, reason: str, meta: Meta | None = None) -> Callable[[], bool]:
        """What lets a job wait again."""
        fresh = replace(meta or held.rec.meta, made_tokens=len(held.tokens))

        def go() -> bool:
            if self._holds(held):
                self.board.preempted[held.rec.id] += reason == "preempted"
                self.board.wait_again(held.rec.id, fresh)
                return True
            return False

        return go

    def send(self, swaps: Sequence[Callable[[], bool]], held: Sequence[Held]) -> list[Held]:
        """Do it; those that the worker does not hold any more."""
        return [job for swap, job in zip(swaps, held, strict=True) if not swap()]

    def _holds(self, held: Held) -> bool:
        return self.board.jobs[held.rec.id].lease == held.rec.lease

    def _step(self, item: Progress) -> bool:
        if not self._holds(item.held):
            return False
        item.held.tokens += (item.delta or {}).get("tokens", ())
        if item.outcome is not None:
            self.board.jobs[item.held.rec.id] = item.held.rec.ended(item.outcome, self.board.now)
        return True


class Worker:
    """One worker's claims, desk and account over the board; its engine is the test."""

    ledger_type: ClassVar[type[Ledger]] = Ledger
    desk_type: ClassVar[type[Desk]] = Desk

    def __init__(self, board: Board, name: str) -> None:
        self.board, self.name, self.starts = board, name, 0
        holding: Any = BoardHolding(board, name)
        lifecycle: Any = SimpleNamespace(
            queue=board,
            settings=SETTINGS,
            tally=Tally(),
            spans=None,
            takers=lambda *_: [],
            end_waiting=board.end_waiting,
            retry_seconds=lambda _: 1.0,
        )
        quiet: Any = SimpleNamespace(
            changed=lambda: None, count=lambda _: None, note=lambda _: None, note_footprint=lambda _: None
        )
        plan, self.told = learned(4, 20), list[dict[str, Any]]()
        residency = Residency({PLAIN.model: "nowhere"}, self.told.append)
        self.desk = self.desk_type(lifecycle, holding, quiet, self.told.append, plan, lambda: board.now)
        self.claiming = Claiming(lifecycle, holding, PRIORITIES, lambda: board.now, residency, plan)
        self.start()

    def start(self) -> None:
        """A new engine, its model in memory."""
        self.desk.ledger = self.ledger_type(BUDGET, 64, 2)
        self.desk.ledger.admit_model(PLAIN)

    def work(self) -> None:
        """Claim, and preempt for an interactive job, as the runner does."""
        ledger = self.ledger
        self.claiming.forget()
        for _ in range(20):
            self.desk.tell_progress()
            held = None if self.desk.lonely else self.claiming.claim(ledger, RATES, self.desk.bounds)
            if held is not None:
                self.desk.take(held)
                self.desk.grant(held)
                continue
            chosen = self.claiming.victims(ledger, RATES, self.desk.preemptible)
            if not chosen or self.desk.lonely:
                return
            self.desk.preempt(chosen)
            self.claiming.forget()

    @property
    def ledger(self) -> Ledger:
        """The account."""
        assert self.desk.ledger is not None
        return self.desk.ledger
