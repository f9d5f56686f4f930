"""How long a model's answers are: its own completions, and what they say of one that is still being written.

A job that reached its ``max_tokens`` would have gone on: its length is known only from below. The estimator for
such samples is the product limit (Kaplan and Meier, 1958): of the answers that got as far as t tokens, the share
that ended there is taken off the share that survives.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

KEPT: Final = 1024
"""Completions of a model that are remembered, the latest."""

ENOUGH: Final = 32
"""Fewer teach nothing: a job then counts with its ``max_tokens``."""


class Completion(NamedTuple):
    """One answer's length."""

    tokens: int
    cut: bool
    """Whether it reached its ``max_tokens``: it is longer than this, by an unknown amount."""


def completion_of(result: dict[str, Any] | None) -> Completion | None:
    """What a job's result says of its answer's length; None where it says nothing."""
    usage = (result or {}).get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if not isinstance(tokens, int) or tokens < 0:
        return None
    return Completion(tokens, cut=(result or {}).get("finish_reason") == "length")


@dataclass(frozen=True)
class Answers:
    """A model's completions, to ask.

    Args:
        completions: the latest, in any order.
    """

    completions: tuple[Completion, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether they teach anything."""
        return len(self.completions) >= ENOUGH

    @cached_property
    def _longest(self) -> int:
        """The longest answer's tokens."""
        return max(each.tokens for each in self.completions)

    @cached_property
    def _ended(self) -> Sequence[float]:
        """The shares of :attr:`_survival` below 0, so that they ascend too, to be searched."""
        return [-each for each in self._survival[1]]

    @cached_property
    def _survival(self) -> tuple[Sequence[int], Sequence[float]]:
        """Lengths at which answers ended, ascending, and the share that is longer than each."""
        lengths: list[int] = []
        shares: list[float] = []
        left, share = len(self.completions), 1.0
        ordered = sorted(self.completions)  # of equal lengths, those that ended come first
        at = 0
        while at < len(ordered):
            tokens = ordered[at].tokens
            same = ordered[at : bisect_right(ordered, (tokens, True))]
            ended = sum(not each.cut for each in same)
            if ended:
                share *= 1 - ended / left
                lengths.append(tokens)
                shares.append(share)
            left -= len(same)
            at += len(same)
        return lengths, shares

    def surviving(self, tokens: int) -> float:
        """The share of answers that are longer than so many tokens."""
        lengths, shares = self._survival
        at = bisect_right(lengths, tokens)
        return shares[at - 1] if at else 1.0

    def quantile(self, level: float, max_tokens: int, made_tokens: int = 0) -> int:
        """How long an answer is that has ``made_tokens`` already and goes on, in tokens.

        Args:
            level: of so many such answers, this share is not longer.
            max_tokens: what it ends at.
            made_tokens: what it has; 0 of a job that waits.

        Returns:
            At least one token more than it has, at most ``max_tokens``. Beyond the longest answer known it is
            taken to be half way; where nothing is known it is ``max_tokens``.
        """
        if not self.enough or level >= 1:
            return max_tokens
        lengths, _ = self._survival
        share = self.surviving(made_tokens)
        wanted = share * (1 - level)
        first = bisect_right(lengths, made_tokens)
        at = bisect_left(self._ended, -wanted - 1e-12, first)
        if share <= 0 or at >= len(lengths):
            longest = self._longest
            at_least = max(longest, 2 * made_tokens) if share <= 0 or made_tokens >= longest else max_tokens
            return max(min(max_tokens, at_least), min(max_tokens, made_tokens + 1))
        return min(max_tokens, max(lengths[at], made_tokens + 1))

    def mean(self, max_tokens: int, made_tokens: int = 0) -> float:
        """What an answer comes to on average, in tokens; arguments as for :meth:`quantile`."""
        if not self.enough:
            return float(max_tokens)
        share = self.surviving(made_tokens)
        if share <= 0:
            return float(self.quantile(0.5, max_tokens, made_tokens))
        lengths, shares = self._survival
        total, before, surviving = float(made_tokens), made_tokens, share
        for at in range(bisect_right(lengths, made_tokens), len(lengths)):
            if lengths[at] >= max_tokens:
                break
            total += (lengths[at] - before) * surviving / share
            before, surviving = lengths[at], shares[at]
        return total + (max(max_tokens, before) - before) * surviving / share
