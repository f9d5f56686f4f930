"""What a worker counts of its jobs as they come, run and go; it travels in its reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from scheduler.blame import Blame, Failure
from scheduler.holding import Held
from scheduler.measures import Laid
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from scheduler.tally import Tally

_APART: Final = {Reason.MEMORY: "sheds", Reason.PREEMPTED: "preemptions"}


class Counting:
    """One worker's hand on its tally.

    Args:
        tally: the process's.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def claimed(self, held: Held) -> None:
        """A job was taken."""
        priority = held.rec.meta.priority
        self._tally.count("claims", priority)
        if held.rec.meta.attempt == 1:
            self._tally.note("wait_seconds", held.claimed_at - held.rec.created_at, priority)

    def computed(self, held: Held, tokens: int, reused: int) -> None:
        """Tokens of its prompt were computed; others were there from earlier jobs."""
        if tokens:
            self._tally.count("prompt_tokens", held.rec.meta.model, by=tokens)
        if reused:
            self._tally.count("prompt_tokens_cached", held.rec.meta.model, by=reused)

    def began(self, held: Held, at: float) -> None:
        """The first token of its answer was made, at Unix seconds."""
        seconds = at - held.rec.created_at
        self._tally.note("time_to_first_token_seconds", seconds, held.rec.meta.priority)

    def made(self, tokens: Mapping[str, int]) -> None:
        """Tokens of answers were made, by model."""
        for model, count in tokens.items():
            self._tally.count("completion_tokens", model, by=count)

    def put_back(self, held: Held, reason: Reason) -> None:
        """A job waits again."""
        priority = held.rec.meta.priority
        self._tally.count("requeues", priority, reason.value)
        if reason in _APART:
            self._tally.count(_APART[reason], priority)

    def fault(self, failure: Failure) -> None:
        """An engine failed."""
        self._tally.count("faults", failure.fault.value)

    def failed(self, held: Held, failure: Failure) -> None:
        """Of that, one of its jobs."""
        laid = Laid.COMPANY if failure.company > 1 else Laid.THE_JOB
        if failure.fault.blame is Blame.SOMEBODY_ELSE:
            laid = Laid.OTHERS
        self._tally.count("attempts_failed", held.rec.meta.priority, failure.fault.value, laid.value)

    def ended(self, held: Held, outcome: Outcome) -> None:
        """A job ended."""
        self._tally.ended(outcome)
        if (ratio := held.rec.meta.footprint_ratio) is not None:
            self._tally.note("memory_predicted_over_measured_ratio", ratio, held.rec.meta.model)
