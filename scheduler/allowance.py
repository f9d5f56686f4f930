"""Tokens a minute: how much a key may still submit, and when it may submit more. Pure.

A bucket holds a minute's tokens and fills evenly (the generic cell rate algorithm, ITU-T I.371): at most a minute's
tokens at once, and over any longer time no more than the rate allows beyond those. Its whole state is one number: the
count of tokens, flowing at the key's rate since 1970, at which it will be full again. So it is kept and compared in
whole tokens, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MINUTE_MICROSECONDS: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """A key's tokens a minute."""

    tokens_per_minute: int

    def flowed(self, now_seconds: float) -> int:
        """Tokens that have flowed since 1970."""
        return round(now_seconds * 1e6) * self.tokens_per_minute // _MINUTE_MICROSECONDS

    def full_at_most(self, tokens: int, now_seconds: float) -> int:
        """Where so many are in the bucket now, it is full again at this count or before."""
        return self.flowed(now_seconds) + self.tokens_per_minute - tokens

    def left(self, full_at: int, now_seconds: float) -> int:
        """Tokens in the bucket."""
        return max(0, self.tokens_per_minute - max(0, full_at - self.flowed(now_seconds)))

    def seconds_until(self, tokens: int, full_at: int, now_seconds: float) -> float:
        """In how many seconds there are so many in the bucket, which holds as many."""
        count = full_at + tokens - self.tokens_per_minute
        microseconds = -(-count * _MINUTE_MICROSECONDS // self.tokens_per_minute)
        return max(0.0, microseconds / 1e6 - now_seconds)

    def seconds_until_full(self, full_at: int, now_seconds: float) -> float:
        """In how many seconds it is full."""
        return self.seconds_until(self.tokens_per_minute, full_at, now_seconds)
