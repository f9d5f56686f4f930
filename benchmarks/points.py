"""How fast somebody answered at one concurrency: a rate, and the times to the first text and between texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.sse_clients import Streamed


@dataclass(frozen=True, slots=True)
class Point:
    """A rate, and seconds."""

    tokens_per_second: float
    first: Sequence[float]
    gaps: Sequence[float]

    def shown(self) -> dict[str, float | None]:
        """As JSON has it; None where there was no such time, as there is no gap in an answer of one text."""
        times = {"ttft": self.first, "gap": self.gaps}
        return {"tokens_per_second": round(self.tokens_per_second, 1)} | {
            f"{name}_p{percent}_ms": round(1000 * value, 2) if math.isfinite(value) else None
            for name, seconds in times.items()
            for percent in (50, 99)
            for value in (quantile(seconds, percent / 100),)
        }


def streamed_point(answers: Sequence[Streamed], max_tokens: int) -> Point:
    """What streams say.

    Raises:
        ValueError: one of them was not answered, or not to its length.
    """
    for each in answers:
        if not each.answered or each.tokens != max_tokens:
            raise ValueError(f"{each.tokens} tokens of {max_tokens}, {each.finish_reason!r} {each.error}")
    seconds = max(each.ended_at for each in answers) - min(each.asked_at for each in answers)
    gaps = [gap for each in answers for gap in each.gaps_seconds]
    rate = sum(each.tokens for each in answers) / seconds
    return Point(rate, [each.first_seconds for each in answers], gaps)


def bare_point(told: Mapping[str, Any]) -> Point:
    """What :mod:`benchmarks.bare_batch` says."""
    return Point(told["tokens"] / told["seconds"], told["first_seconds"], told["gap_seconds"])


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that so large a share of them does not exceed; infinite where there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.inf
