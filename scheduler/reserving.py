"""How long an answer is taken to become when memory is reserved for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from scheduler.completions import Answers
from scheduler.foresight import Row

Policy = Literal["learned", "worst_case"]

NO_ANSWERS: Final = Answers()


@dataclass(frozen=True, slots=True)
class Reserving:
    """An operator's policy.

    Args:
        policy: ``worst_case`` reserves all of ``max_tokens``, which most jobs never write; ``learned`` what the
            model's own completions say, and the guard sheds where that was too little.
        quantile: of jobs like it, the share that does not write more than is reserved.
    """

    policy: Policy = "learned"
    quantile: float = 0.9

    def row(self, whole: Row, answers: Answers, made_tokens: int = 0) -> Row:
        """What to reserve for a job.

        Args:
            whole: its prompt, and all that it may write behind it, in this attempt.
            answers: its model's completions.
            made_tokens: of its answer before this attempt, which its prompt holds; its answer goes on from them.
        """
        return replace(whole, max_tokens=self.answer_tokens(whole, answers, made_tokens, 0))

    def answer_tokens(self, whole: Row, answers: Answers, made_tokens: int, written_tokens: int) -> int:
        """The same as the row's ``max_tokens``, of a job that has written so many in this attempt."""
        if self.policy == "worst_case":
            return whole.max_tokens
        all_tokens = made_tokens + whole.max_tokens
        planned = answers.quantile(self.quantile, all_tokens, made_tokens + written_tokens)
        return max(1, min(whole.max_tokens, planned - made_tokens))
