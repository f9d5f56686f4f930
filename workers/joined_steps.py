"""What the engine's steps brought each job: one write a job, several steps joined where the worker is behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from scheduler.holding import Progress
from scheduler.job import State
from scheduler.outcome import Outcome
from workers.desk import Desk
from workers.wire import Message


def note_begun(desk: Desk, messages: Sequence[Message]) -> list[Message]:
    """Take which jobs the engine has in hand from what it said, at once, whatever the store does; the rest of that."""
    begun = {message["key"] for message in messages if message["kind"] == "counting"}
    desk.begun |= begun & desk.running.keys()
    return [message for message in messages if message["kind"] != "counting"]


def progress_of(desk: Desk, steps: Iterable[Message]) -> list[Progress]:
    """What steps brought the jobs in hand: one item a job, several steps joined where the worker is behind."""
    deltas: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, Outcome] = {}
    made: Counter[str] = Counter()
    began: dict[str, float] = {}
    for step in steps:
        key = step["key"]
        if key not in desk.running:
            continue
        delta = deltas.setdefault(key, {})
        _join(delta, step)
        if tokens := step.get("tokens"):
            made[desk.running[key].rec.meta.model] += len(tokens)
            began.setdefault(key, step["at"])
        if "result" in step:
            cut = step["result"]["finish_reason"] == "length"
            held = desk.running[key]
            result = step["result"]
            if logprobs := [*held.logprobs, *delta.get("logprobs", ())]:
                result["logprobs"] = logprobs
            outcomes[key] = Outcome(State.INCOMPLETE if cut else State.COMPLETED, result)
            peak, ratio = step.get("peak_bytes"), desk.footprint_ratio(held, step.get("peak_bytes"))
            held.rec = replace(held.rec, meta=replace(held.rec.meta, peak_bytes=peak, footprint_ratio=ratio))
    progress = []
    for key, delta in deltas.items():
        held = desk.running[key]
        if not held.tokens and key in began:
            desk.witness.counting.began(held, began[key])
        first = not held.tokens and key not in outcomes
        meta = replace(held.rec.meta, output_seen=True) if first else None
        progress.append(Progress(held, delta or None, outcomes.get(key), meta))
    desk.witness.counting.made(made)
    return [item for item in progress if item.delta or item.outcome]


def _join(delta: dict[str, Any], step: Message) -> None:
    """Add a step's news to what a job's next event says."""
    for name in ("tokens", "logprobs"):
        if step.get(name):
            delta[name] = [*delta.get(name, ()), *step[name]]
    for name in ("text", "reasoning"):
        if step.get(name):
            delta[name] = delta.get(name, "") + step[name]
    if delta:
        delta["at"] = step["at"]
