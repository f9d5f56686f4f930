"""A worker's attempts as spans: made when an attempt is over, of what was noted at its claim, its tokens, its failures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from scheduler.batch_account import Holder
from scheduler.blame import Failure
from scheduler.holding import Held, Progress
from scheduler.job_spans import Happening, Stretch, Value, end_attributes, error_code, job_attributes, waited
from scheduler.reasons import Reason

if TYPE_CHECKING:
    from scheduler.span_sender import SpanSender

_HAPPENED: Final = {
    Reason.MEMORY: "shed",
    Reason.PREEMPTED: "preempted",
    Reason.ENGINE_LOST: "engine_died",
}
"""Of the reasons for putting a job back, those that are things that happened to it; failures are noted by themselves."""

_BAD: Final = frozenset(Reason) - {
    *(Reason.PREEMPTED, Reason.WORKER_STOPPED, Reason.LARGER_THAN_ESTIMATED, Reason.LARGER_THAN_BUDGET),
    Reason.MEMORY,
}
"""Reasons with which an attempt went wrong; the others are the scheduler's ordinary work."""


@dataclass(slots=True)
class _Attempt:
    """What is noted of one that goes on; times are Unix seconds."""

    first_at: float | None = None
    last_at: float | None = None
    tokens: int = 0
    happenings: list[Happening] = field(default_factory=list)


class AttemptSpans:
    """Those of one worker; nothing is done where there is no sender, nor for jobs that have no trace.

    Args:
        sender: sends spans; None where traces are off.
        clock: Unix seconds.
    """

    def __init__(self, sender: SpanSender | None, clock: Callable[[], float]) -> None:
        self._sender, self._clock = sender, clock
        self._open: dict[Holder, _Attempt] = {}

    def begun(self, held: Held) -> None:
        """A job was claimed: its stay in the queue is over."""
        meta = held.rec.meta
        if self._sender is not None and meta.traceparent is not None:
            self._open[held.holder] = _Attempt()
            self._sender.tell(meta.traceparent, waited(held.rec, held.waited_since, held.claimed_at))

    def wrote(self, progress: Sequence[Progress], lost: Collection[Held]) -> None:
        """A step was written; of those that were lost, whoever took them over tells."""
        if not self._open:
            return
        for item in progress:
            attempt = self._open.get(item.held.holder)
            if attempt is None:
                continue
            if item.held in lost:
                del self._open[item.held.holder]
                continue
            delta = item.delta or {}
            if made := len(delta.get("tokens", ())):
                attempt.last_at = delta.get("at", self._clock())
                attempt.first_at = attempt.first_at or attempt.last_at
                attempt.tokens += made
            if item.outcome is not None:
                self._ended(item.held, end_attributes(item.outcome), error_code(item.outcome))

    def failed(self, held: Held, failure: Failure) -> None:
        """Its engine failed under it, before anybody knows what becomes of it."""
        if (attempt := self._open.get(held.holder)) is not None:
            said: dict[str, Value] = {
                "tidegate.fault": failure.fault.value,
                "tidegate.exit": failure.exit_name or None,
                "tidegate.company": failure.company,
            }
            now = self._clock()
            attempt.happenings.append(
                Happening("engine_died" if failure.died else "engine_failed", now, said)
            )
            if failure.memory:
                attempt.happenings.append(Happening("out_of_memory", now))

    def put_back(self, held: Held, reason: Reason, lost: Collection[Held]) -> None:
        """It waits again; or it was lost before."""
        attempt = self._open.get(held.holder)
        if attempt is None:
            return
        if held in lost:
            del self._open[held.holder]
            return
        if reason in _HAPPENED and not any(each.name == _HAPPENED[reason] for each in attempt.happenings):
            attempt.happenings.append(Happening(_HAPPENED[reason], self._clock()))
        said: dict[str, Value] = {"tidegate.requeue.reason": reason.value}
        self._ended(held, said, reason.value if reason in _BAD else None)

    def _ended(self, held: Held, said: dict[str, Value], error: str | None) -> None:
        attempt, meta, ended_at = self._open.pop(held.holder), held.rec.meta, self._clock()
        assert self._sender is not None
        asked = held.rec.envelope.get("request")
        chat = isinstance(asked, dict) and "messages" in asked
        told = job_attributes(held.rec) | {
            "gen_ai.operation.name": "chat" if chat else "text_completion",
            "gen_ai.request.max_tokens": meta.max_tokens,
            "gen_ai.usage.input_tokens": meta.prompt_tokens if meta.counted else None,
            "gen_ai.usage.output_tokens": len(held.tokens),
            "tidegate.worker": held.lease.worker,
            "tidegate.attempt": held.lease.attempt,
            "tidegate.resumed_tokens": held.resumed_tokens,
            "tidegate.memory.reserved_bytes": max(held.promised_bytes, meta.reserved_bytes),
            "tidegate.memory.peak_bytes": meta.peak_bytes,
            "tidegate.memory.budget_bytes": meta.budget_bytes,
        }
        told |= {name: value for name, value in said.items() if value is not None}
        parts = _parts(held, attempt, ended_at)
        stretch = Stretch("attempt", held.claimed_at, ended_at, told, attempt.happenings, parts, error)
        self._sender.tell(meta.traceparent, stretch)


def _parts(held: Held, attempt: _Attempt, ended_at: float) -> list[Stretch]:
    """What there was of computing the prompt, and of the answer."""
    meta, parts = held.rec.meta, list[Stretch]()
    granted_at = meta.granted_at
    if granted_at is not None and granted_at >= held.claimed_at:  # else it is an earlier attempt's
        prompt: dict[str, Value] = {
            "tidegate.prompt_tokens": meta.prompt_tokens + held.resumed_tokens,
            "tidegate.finished": attempt.first_at is not None,
        }
        parts.append(Stretch("prefill", granted_at, attempt.first_at or ended_at, prompt))
    if attempt.first_at is not None and attempt.last_at is not None:
        seconds = attempt.last_at - attempt.first_at
        rate = round((attempt.tokens - 1) / seconds, 2) if attempt.tokens > 1 and seconds > 0 else None
        answer: dict[str, Value] = {"tidegate.tokens": attempt.tokens, "tidegate.tokens_per_second": rate}
        parts.append(Stretch("decode", attempt.first_at, attempt.last_at, answer))
    return parts
