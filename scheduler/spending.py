"""What keys have spent of their tokens a minute: charged by the very swap that lets a job in.

So jobs that come together, to one API or several, cannot spend a token twice, and a job that is refused, for whatever
reason, is charged nothing. What was charged is not given back: it is the price of asking.

Keys::

    tidegate:allowance:{owner}:{tokens a minute}  sorted set; ``full`` -> the count at which the bucket is full
                                                  (:mod:`scheduler.allowance`); lapses when it is full anyway

It is a sorted set for the server's ``GT``: a bucket that has been full begins at the present count, without being read
before. A key whose quota is changed begins another bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scheduler.allowance import Allowance
from scheduler.errors import ClientError
from scheduler.keys import Key
from scheduler.slip import counted
from scheduler.swap import Guard, Swap, Word

LAPSE_SECONDS: Final = 62  # a minute, and what rounding and clocks may differ by

_MEMBER: Final = "full"

_OWNERS_KNOWN: Final = 4096
"""Keys of which a process remembers what it saw; keys come and go for as long as it runs."""


@dataclass(frozen=True, slots=True)
class Fee:
    """What a job takes of its key's tokens, at one moment.

    Args:
        owner: the key's.
        allowance: the key's.
        tokens: the job's prompt, as estimated, and its ``max_tokens``.
        now: Unix seconds.
        leaving: tokens that it leaves to others of its key, unless the bucket is full.
    """

    owner: str
    allowance: Allowance
    tokens: int
    now: float
    leaving: int = 0

    @property
    def key(self) -> str:
        """Where the bucket is kept."""
        return f"tidegate:allowance:{self.owner}:{self.allowance.tokens_per_minute}"

    def swap(self) -> Swap:
        """Take so many tokens, if they are there."""
        needed = min(self.tokens + self.leaving, self.allowance.tokens_per_minute)
        most = self.allowance.full_at_most(needed, self.now)
        return Swap(
            (Guard(("ZSCORE", self.key, _MEMBER), most, "<="),),
            (
                ("ZADD", self.key, "GT", self.allowance.flowed(self.now), _MEMBER),
                ("ZINCRBY", self.key, self.tokens, _MEMBER),
                ("EXPIRE", self.key, LAPSE_SECONDS),
            ),
        )

    def reads(self) -> tuple[tuple[Word, ...], ...]:
        """What asks for the bucket."""
        return (("ZSCORE", self.key, _MEMBER),)

    def refusal(self, reply: object) -> ClientError:
        """The error of a job that there are not enough tokens for.

        Args:
            reply: what :meth:`reads` brought.
        """
        per_minute, full_at = self.allowance.tokens_per_minute, counted(reply)
        left = self.allowance.left(full_at, self.now)
        return ClientError(
            "rate_limit_exceeded",
            f"this job's {self.tokens:,} tokens (prompt and max_tokens) are more than the {left:,} left now of this "
            f"API key's {per_minute:,} a minute",
            retry_after=self.allowance.seconds_until(self.tokens, full_at, self.now),
            limit_tokens=per_minute,
            remaining_tokens=left,
            reset_seconds=round(self.allowance.seconds_until_full(full_at, self.now), 3),
        )


def fee_of(key: Key | None, prompt_tokens: int, max_tokens: int, now: float) -> Fee | None:
    """What a job costs its key; None where the key counts no tokens.

    Raises:
        ClientError: ``forbidden``; the job is larger than all that the key has in a minute.
    """
    if key is None or key.tokens_per_minute is None:
        return None
    tokens = prompt_tokens + max_tokens
    if tokens > key.tokens_per_minute:
        raise ClientError(
            "forbidden",
            f"this job's {tokens:,} tokens (a prompt of about {prompt_tokens:,} and max_tokens) are more than this "
            f"API key may use in a minute, {key.tokens_per_minute:,}",
            param="max_tokens",
        )
    return Fee(key.owner, Allowance(key.tokens_per_minute), tokens, now)


class Spending:
    """What this process last saw in each key's bucket."""

    def __init__(self) -> None:
        self._full_at: dict[str, tuple[Allowance, int]] = {}

    def saw(self, fee: Fee, reply: object) -> None:
        """Note what was read with a fee."""
        self._full_at.pop(fee.owner, None)
        while len(self._full_at) >= _OWNERS_KNOWN:
            self._full_at.pop(next(iter(self._full_at)), None)  # the one that was seen longest ago
        self._full_at[fee.owner] = (fee.allowance, counted(reply))

    def left(self, key: Key, now: float) -> tuple[int, int, float] | None:
        """A key's tokens a minute, those left of them, and seconds until all are there; None if nothing is known."""
        allowance, full_at = self._full_at.get(key.owner, (None, 0))
        if allowance is None or allowance.tokens_per_minute != key.tokens_per_minute:
            return None
        left = allowance.left(full_at, now)
        return allowance.tokens_per_minute, left, allowance.seconds_until_full(full_at, now)
