"""A worker's claims without its engine, for benchmarks: jobs put in by the real swap, claimed and ended by the verbs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import redis

from scheduler.card import ModelCard
from scheduler.envelope import ENVELOPE_VERSION
from scheduler.holding import Held, Holding, Progress
from scheduler.job import PRIORITIES, State, new_job_id
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.owner import owner_of
from scheduler.queue import JobQueue
from scheduler.record import JobRecord, Meta
from scheduler.reserving import Reserving
from scheduler.settings import Settings, load
from scheduler.slots import CacheGroup
from scheduler.waiting import Bounds
from workers.claiming import Claiming
from workers.planning import Planning
from workers.residency import Residency

MODEL: Final = "plain"
CARD: Final = ModelCard(
    model=MODEL,
    device="cpu",
    weights_bytes=1 << 20,
    caches=(CacheGroup("full", 2, bytes_per_token=1024),),
    logits_bytes=4096,
    chunk_bytes=((16, 1600), (64, 6400)),
    later_bytes=(),
    decode_bytes=0,
    context_tokens=1 << 16,
)
ANN: Final = owner_of("Bearer ann")
BOB: Final = owner_of("Bearer bob")

_TOGETHER: Final = 500  # swaps in one call of the script
_NO_BOUND: Final = Bounds(1 << 40, 1 << 50)
_DONE: Final = Outcome(State.COMPLETED, {"text": "", "finish_reason": "stop", "usage": {}})


def settings_for(url: str) -> Settings:
    """A worker's settings, for a server."""
    return load(redis_url=url, models=(MODEL,))


def put_in(queue: JobQueue, count: int, owners: Sequence[str], priority: str = "standard") -> None:
    """Let jobs wait, of these owners in turn, in a class."""
    for start in range(0, count, _TOGETHER):
        batch = [
            _job(owners[at % len(owners)], priority) for at in range(start, min(start + _TOGETHER, count))
        ]
        done = queue.swap(*(queue.submit_swap(rec, _NO_BOUND) for rec in batch))
        if set(done) != {1}:
            raise RuntimeError("a job was refused")


def _job(owner: str, priority: str) -> JobRecord:
    now = round(time.time(), 6)
    meta = Meta(
        model=MODEL,
        priority=priority,
        owner=owner,
        work_tokens=64,
        prompt_tokens=32,
        max_tokens=32,
        counted=True,
        seed=1,
    )
    request = {"model": MODEL, "prompt": "The tide comes in. " * 6, "max_tokens": 32}
    envelope = {"version": ENVELOPE_VERSION, "request": request}
    return JobRecord(new_job_id(now), State.QUEUED, meta, now, now, envelope)


class Claimer:
    """A worker that claims and ends jobs, one at a time.

    Args:
        url: of the server.
        name: the worker's.
    """

    def __init__(self, url: str, name: str) -> None:
        self.connection = redis.Redis.from_url(url)
        self.lifecycle = Lifecycle(self.connection, settings_for(url))
        self.queue = self.lifecycle.queue
        self.holding = Holding(self.queue, name)
        self.ledger = Ledger(1 << 30, 512, 4)
        self.ledger.admit_model(CARD)
        residency = Residency({MODEL: "nowhere"}, lambda _: None)
        planning = Planning(Reserving(), self.lifecycle.histories.answers)
        self._claims = Claiming(self.lifecycle, self.holding, PRIORITIES, time.time, residency, planning)

    def claim(self, *, fresh: bool) -> Held | None:
        """Claim the next job.

        Args:
            fresh: whether to look at the queues first, as a worker does that was woken; else what is left of the
                last look is taken first, as by a worker that fills its batch.
        """
        if fresh:
            self._claims.forget()
        return self._claims.claim(self.ledger, None)

    def end(self, held: Held) -> bool:
        """End a job, its memory free again; False where it was lost to another worker meanwhile."""
        lost = self.holding.write([Progress(held, outcome=_DONE)])
        self.ledger.release(held.holder)
        return not lost
