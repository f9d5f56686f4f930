"""What pretended engines compute, and where their memory truly ends; tests foretell it from the same.

A job's answer is a function of its prompt and seed. What it does to engines stands at its prompt's beginning.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from scheduler.blame import Fault
from scheduler.slots import GROWTH_TOKENS
from tests.cards import PLAIN
from tests.last_words import BUGGY, HUNG, POISON, TOO_LARGE, End

BUDGET: Final = 2 * PLAIN.weights_bytes
"""What workers are told that they may use. Of it, half are weights: a segmentation fault is never far from full."""

UNIT: Final = GROWTH_TOKENS * PLAIN.caches[0].bytes_per_token
"""By which a row's cache grows."""

DOES: Final = {"!": POISON, "?": BUGGY, "~": HUNG, "#": TOO_LARGE}
"""What jobs do to the engine once they have made so many tokens, by what their prompts begin with."""

_VOCABULARY: Final = 997
_ENDS: Final = 30
"""One token in so many ends an answer."""


def slots(tokens: int) -> int:
    """The slots that a cache of so many tokens has."""
    return GROWTH_TOKENS * math.ceil(tokens / GROWTH_TOKENS)


def word(token: int) -> str:
    """A token's text."""
    return f"w{token} "


@dataclass(frozen=True)
class Asked:
    """What was asked for; from it follows the answer, and what it takes alone.

    A mark is what the job does to engines, and, in two digits, at which of its tokens.
    """

    mark: str
    size: int
    seed: int
    max_tokens: int
    stop: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """Its text; every letter is a token."""
        return self.mark.ljust(self.size, "x")

    @cached_property
    def _root(self) -> bytes:
        return hashlib.sha256(f"{self.seed} {self.prompt}".encode()).digest()

    def token(self, position: int) -> int | None:
        """The answer's token at a position, from 0; None where the answer ends."""
        number = int.from_bytes(hashlib.sha256(self._root + position.to_bytes(4, "big")).digest()[:8], "big")
        return number // _ENDS % _VOCABULARY if number % _ENDS else None

    def cut(self, token: int) -> int | None:
        """Where a token's text stops the answer; None where it does not."""
        found = [word(token).find(each) for each in self.stop if each in word(token)]
        return min(found, default=None)

    @cached_property
    def answer(self) -> tuple[tuple[int, ...], str, str]:
        """The undisturbed tokens, their text, and why they end."""
        tokens: list[int] = []
        text = ""
        while len(tokens) < self.max_tokens:
            token = self.token(len(tokens))
            if token is None:
                return tuple(tokens), text, "stop"
            tokens.append(token)
            text += word(token)[: self.cut(token)]
            if self.cut(token) is not None:
                return tuple(tokens), text, "stop"
        return tuple(tokens), text, "length"

    @property
    def steps(self) -> int:
        """Decode steps from its first token to its end."""
        tokens, _, reason = self.answer
        silent = reason == "stop" and (not tokens or self.cut(tokens[-1]) is None)
        return len(tokens) + silent  # the one that ends it brings no token

    @property
    def alone_bytes(self) -> int:
        """What it truly takes alone at its end, the weights counted."""
        per_token = PLAIN.caches[0].bytes_per_token
        return PLAIN.weights_bytes + per_token * slots(self.size + self.steps)

    @property
    def does(self) -> End | None:
        """What it does to its engine; None where it ends before it does."""
        end = DOES.get(self.mark[0])
        return end if end is not None and self.at < self.steps else None

    @property
    def at(self) -> int:
        """The token that it does not make."""
        return int(self.mark[1:])


@dataclass(slots=True)
class World:
    """What engines meet, whatever they were told.

    ``ways`` say how running out shows, one after the other. A process has ``buffers`` steps; ``troubles`` are
    nobody's own fault, and meet whichever engine steps next.
    """

    device: str = "cpu"
    limit_bytes: int = BUDGET
    ways: Sequence[End] = ()
    buffers: float = math.inf
    reading_bytes: int = BUDGET
    troubles: deque[End] = field(default_factory=deque)
    sheds: int = 0
    now: float = 1_700_000_000.0
    hits: dict[str, Counter[Fault]] = field(default_factory=dict)
    """By job: what befell it while it was alone, and was not its own doing."""
    _ran_out: int = 0

    def clock(self) -> float:
        """Seconds, for everything."""
        return self.now

    def run_out(self) -> End:
        """How memory runs out this time."""
        self._ran_out += 1
        return self.ways[self._ran_out % len(self.ways)]

    def befell(self, keys: Iterable[str], fault: Fault) -> None:
        """Note what befell jobs through no fault of theirs, where one was alone and will be blamed for it."""
        jobs = {key.split("/")[0] for key in keys}
        if len(jobs) == 1:
            self.hits.setdefault(jobs.pop(), Counter())[fault] += 1
