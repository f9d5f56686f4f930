"""A worker without an engine: it claims, says and ends by the real verbs, as a test tells it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from redis import Redis

from scheduler import fleet
from scheduler.errors import ClientError
from scheduler.holding import Held, Holding, Progress
from scheduler.job import PRIORITIES, State
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.slots import CacheGroup
from tests.cards import PLAIN
from tests.conftest import MODEL
from tests.waiting import wait_until

GIB = 1 << 30

CARD = replace(
    PLAIN,
    model=MODEL,
    weights_bytes=1 << 20,
    caches=(CacheGroup("full", 2, bytes_per_token=1024),),
    logits_bytes=4096,
    chunk_bytes=((16, 1600), (64, 6400)),
    context_tokens=1 << 20,
)


class PretendWorker:
    """Plays a worker."""

    def __init__(self, connection: Redis, name: str = "pretend") -> None:
        self.connection = connection
        self.name = name
        self.queue = JobQueue(connection, result_ttl=600)
        self.holding = Holding(self.queue, name)

    def report(
        self, budget_bytes: int = GIB, lease_seconds: float = 60.0, **fields: Any
    ) -> fleet.WorkerReport:
        """Say that it lives, and whatever else the test wants it to say."""
        said = fleet.WorkerReport(
            name=self.name,
            host="here",
            pid=1,
            engine="ready",
            budget_bytes=budget_bytes,
            budget_source="set",
            limits_bytes={"set": budget_bytes},
            weights_bytes=CARD.weights_bytes,
            reserved_bytes=0,
            used_bytes=0,
            cache_bytes=0,
            headroom_bytes=budget_bytes - CARD.weights_bytes,
            chunk_tokens=512,
            served=(MODEL,),
            cards={MODEL: CARD.to_json()},
            queues=PRIORITIES,
        )
        said = replace(said, **fields)
        fleet.report(self.connection, said, lease_seconds)
        return said

    def claim(self, job_id: str | None = None) -> Held:
        """Claim a job that waits: this one, or the first."""
        held = self.try_claim(job_id)
        assert held is not None, "nothing to claim"
        return held

    def try_claim(self, job_id: str | None = None) -> Held | None:
        """Claim a job if one waits."""
        for head in self.queue.heads(PRIORITIES, 100):
            for rec, _ in head:
                if job_id in (None, rec.id):
                    return self.holding.claim(rec, replace(rec.meta, prompt_tokens=7), ())
        return None

    def say(self, held: Held, text: str, **more: Any) -> None:
        """Generate a piece of text."""
        self.holding.write([Progress(held, {"text": text, "tokens": [1], **more})])

    def complete(self, held: Held, text: str, reason: str = "stop", **more: Any) -> None:
        """End a job with a result."""
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        result = {"text": text, "finish_reason": reason, "usage": usage, **more}
        self.end(held, Outcome(State.COMPLETED, result))

    def run_out(self, held: Held, text: str) -> None:
        """End a job at its bound of tokens."""
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        self.end(held, Outcome(State.INCOMPLETE, {"text": text, "finish_reason": "length", "usage": usage}))

    def fail(self, held: Held, error: ClientError) -> None:
        """End a job with an error."""
        self.end(held, Outcome(State.FAILED, error=error.body()))

    def end(self, held: Held, outcome: Outcome) -> None:
        """End a job."""
        assert self.holding.write([Progress(held, outcome=outcome)]) == []

    def cancel_wanted(self, held: Held) -> bool:
        """Whether a client asked to cancel the job."""
        return bool(self.holding.cancel_wanted([held]))

    @contextmanager
    def answering(self, most: float = math.inf) -> Iterator[None]:
        """Answer every job, or so many, from a thread of its own, until the block ends.

        A prompt is said back, word by word. ``stall`` says one word, then waits to be cancelled. ``fail``
        fails at once with ``insufficient_memory``, and ``break`` after a word.
        """
        stop, failures, left = threading.Event(), list[BaseException](), most

        def serve() -> None:
            nonlocal left
            try:
                while left and not stop.is_set():
                    held = self.try_claim()
                    if held is None:
                        stop.wait(0.005)
                    else:
                        self._answer(held)
                        left -= 1
            except BaseException as error:  # noqa: BLE001 (the test fails with it)
                failures.append(error)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(15)
        assert failures == []

    def _answer(self, held: Held) -> None:
        request = held.rec.request
        text = request.prompt or (request.messages or ())[-1].text
        error = ClientError("insufficient_memory", "insufficient memory", retry_after=1, limit_bytes=5)
        if text == "fail":
            self.fail(held, error)
        elif text == "break":
            self.say(held, "one ")
            self.fail(held, error)
        elif text == "stall":
            self.say(held, "one ")
            wait_until(lambda: self.cancel_wanted(held), f"{held.rec.id} cancelled")
            self.end(held, Outcome(State.CANCELLED))
        else:
            words = [f"{word} " for word in text.split()]
            for word in words:
                self.say(held, word)
            self.complete(held, "".join(words))
