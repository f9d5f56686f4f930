"""What the engine's steps brought each job: one write a job, several steps joined where the worker is behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from scheduler.holding import Progress
from scheduler.job import State
from scheduler.record import Outcome
from workers.desk import Desk
from workers.wire import Message


def progress_of(desk: Desk, steps: Iterable[Message]) -> list[Progress]:
    """What steps brought the jobs in hand: one item a job, several steps joined where the worker is behind."""
    deltas: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, Outcome] = {}
    for step in steps:
        key = step["key"]
        if key not in desk.running:
            continue
        delta = deltas.setdefault(key, {})
        _join(delta, step)
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
        first = not held.tokens and key not in outcomes
        meta = replace(held.rec.meta, output_seen=True) if first else None
        progress.append(Progress(held, delta or None, outcomes.get(key), meta))
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
