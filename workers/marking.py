"""What a worker marks in its recent past, in words for whoever looks at it; none names a job or a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scheduler.blame import Failure
from scheduler.errors import gib, so_many
from scheduler.holding import Held
from scheduler.job import State
from scheduler.outcome import Outcome
from scheduler.tide import WORDS_MOST, Kind, Mark

COUNTERS: Final[dict[str, str]] = {
    "shed": "sheds",
    "preempted": "preemptions",
    "out_of_memory": "out_of_memory",
    "engine_died": "engine_deaths",
}
"""The report's counters of what is marked; jobs' ends have one for each state."""


def admitted(held: Held, share_bytes: int, now: float) -> Mark:
    """A job was taken, and memory reserved for it."""
    meta = held.rec.meta
    before = f", in attempt {meta.attempt}" if meta.attempt > 1 else ""
    words = (
        f"A job was admitted{before}: {gib(share_bytes)} reserved, for {so_many(meta.prompt_tokens, 'token')} of prompt "
        f"and up to {meta.max_tokens:,} of answer."
    )
    return _mark("admitted", words, now, held, share_bytes)


def shed(held: Held, share_bytes: int, now: float) -> Mark:
    """A job gave way since memory ran short."""
    kept = so_many(len(held.tokens), "token")
    words = f"Memory ran short: a job waits again and keeps its {kept}; {gib(share_bytes)} given back."
    return _mark("shed", words, now, held, share_bytes)


def preempted(held: Held, share_bytes: int, now: float) -> Mark:
    """A job gave way to a more urgent one."""
    kept = so_many(len(held.tokens), "token")
    words = f"A job made room for an interactive one, and keeps its {kept}; {gib(share_bytes)} given back."
    return _mark("preempted", words, now, held, share_bytes)


def ended(held: Held, outcome: Outcome, share_bytes: int, now: float) -> Mark:
    """A job ended."""
    how = "was cancelled" if outcome.state is State.CANCELLED else _ENDS[outcome.state]
    if outcome.error is not None:
        how += f" ({str(outcome.error.get('code', 'internal_error')).replace('_', ' ')})"
    made, ran = so_many(len(held.tokens), "token"), held.ran_seconds(now)
    words = f"A job {how} after {made} and {ran:.1f} s; {gib(share_bytes)} given back."
    return _mark("ended", words, now, held, share_bytes)


def out_of_memory(failure: Failure, jobs: Sequence[Held], now: float) -> Mark:
    """Memory ran out in spite of the account; of a job alone it is known under which."""
    need = f": {gib(failure.need_bytes)} could not be had" if failure.need_bytes else ""
    limit = f" of a budget of {gib(failure.limit_bytes)}" if need and failure.limit_bytes else ""
    words = f"Memory ran out under {so_many(len(jobs), 'job')}{need}{limit} ({failure.words})."
    alone = jobs[0] if len(jobs) == 1 else None
    return _mark("out_of_memory", words, now, alone, failure.need_bytes or None)


def engine_died(exit_name: str, jobs: int, now: float) -> Mark:
    """The engine's process ended."""
    words = f"The engine died ({exit_name}) with {so_many(jobs, 'job')} in hand."
    return _mark("engine_died", words, now, None, None)


_ENDS: Final = {
    State.COMPLETED: "was completed",
    State.INCOMPLETE: "was cut at its bound",
    State.FAILED: "failed",
}


def _mark(kind: Kind, words: str, now: float, held: Held | None, count_bytes: int | None) -> Mark:
    job_id, owner = (held.rec.id, held.rec.meta.owner) if held is not None else (None, "")
    return Mark(round(max(0.0, now), 3), kind, words[:WORDS_MOST], job_id, owner, count_bytes)
