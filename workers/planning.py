"""How long the answers of jobs are taken to become on this worker: its policy, and what completions teach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.completions import Answers
from scheduler.foresight import Row
from scheduler.holding import Held
from scheduler.record import JobRecord
from scheduler.reserving import Reserving


@dataclass(frozen=True, slots=True)
class Planning:
    """Rows to reserve.

    Args:
        reserving: the operator's policy.
        answers: a model's completions.
    """

    reserving: Reserving
    answers: Callable[[str], Answers]

    def waiting(self, rec: JobRecord, whole: Row) -> int:
        """The answer's tokens of a job that waits, behind those that it has."""
        return self.reserving.answer_tokens(whole, self.answers(rec.meta.model), rec.meta.made_tokens, 0)

    def sized(self, held: Held, whole: Row) -> Row:
        """The row of a job whose prompt was just counted; what it has made is a part of that."""
        return self.reserving.row(whole, self.answers(held.rec.meta.model), len(held.tokens))

    def now(self, held: Held) -> int:
        """The answer's tokens, in this attempt, of a job in hand."""
        meta, made = held.rec.meta, held.resumed_tokens
        whole = Row(max(1, meta.prompt_tokens + made), max(1, meta.max_tokens - made))
        written = len(held.tokens) - made
        return self.reserving.answer_tokens(whole, self.answers(meta.model), made, written)

    def left(self, held: Held) -> int:
        """Tokens that the answer of a job in hand will still take on average."""
        made, most = len(held.tokens), held.rec.meta.max_tokens
        return max(0, math.ceil(self.answers(held.rec.meta.model).mean(max(made, most), made)) - made)
