"""Policies for tests: plans that reserve everything, or what some completions teach."""

from __future__ import annotations

from scheduler.completions import Answers, Completion
from scheduler.reserving import NO_ANSWERS, Reserving
from workers.planning import Planning

WORST_CASE = Planning(Reserving("worst_case"), lambda _: NO_ANSWERS)


def learned(*tokens: int, quantile: float = 0.9) -> Planning:
    """A plan by completions of these lengths, each met often enough to teach."""
    known = Answers(tuple(Completion(each, cut=False) for each in tokens for _ in range(64)))
    return Planning(Reserving("learned", quantile), lambda _: known)
