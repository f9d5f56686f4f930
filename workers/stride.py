"""How long a chunk of prompts may be beside running streams, so that none of them stands still for long. Pure.

Between two decode steps a chunk of the prompts is computed, and every stream waits for it: with chunks of 512 tokens,
for seconds on a small Mac. So chunks are as long as the last ones show that the time allows; where nobody writes, or a
decode step takes longer anyway, they need not be shorter.
"""

from __future__ import annotations

import collections
import statistics
from typing import Final

from workers.guard import CHUNK_LEAST

_LOOPS: Final = 4
"""That are looked back on, of each kind. Of those with prompts the last decides: tokens far into a long prompt take
longer, and few together longer each; but not one of so few that it shows little of what a chunk takes."""


class Stride:
    """One model's.

    Args:
        gap_seconds: for how long prompts may keep streams waiting.
        chunk_tokens: the longest chunk.
    """

    def __init__(self, gap_seconds: float, chunk_tokens: int) -> None:
        self._gap_seconds, self._chunk_tokens = gap_seconds, chunk_tokens
        self._steps: collections.deque[float] = collections.deque(maxlen=_LOOPS)
        self._prompts: collections.deque[tuple[int, float]] = collections.deque(maxlen=_LOOPS)

    def note(self, seconds: float, prompt_tokens: int, *, decodes: bool) -> None:
        """A loop.

        Args:
            seconds: that it took.
            prompt_tokens: of prompts that it computed, padding included.
            decodes: whether it made a decode step too.
        """
        if not prompt_tokens:
            self._steps.append(seconds)
        else:
            self._prompts.append(
                (prompt_tokens, max(1e-6, seconds - (self._step_seconds if decodes else 0.0)))
            )

    @property
    def _step_seconds(self) -> float:
        return statistics.median_low(self._steps) if self._steps else 0.0

    def seconds(self, prompt_tokens: int) -> float:
        """About what so many tokens of a prompt take; 0 where nothing is known."""
        tokens, seconds = self._chunk if self._prompts else (1, 0.0)
        return seconds / tokens * prompt_tokens

    @property
    def _chunk(self) -> tuple[int, float]:
        """The chunk by which the next one is made: its tokens and seconds."""
        chunks = (each for each in reversed(self._prompts) if each[0] >= CHUNK_LEAST)
        return next(chunks, max(self._prompts))

    def tokens(self, prompts: int, *, decodes: bool, models: int = 1) -> int:
        """The next chunk's length.

        Args:
            prompts: that are computed together.
            decodes: whether anybody waits for it.
            models: that have prompts, each of which computes some between two tokens.
        """
        if not (decodes and prompts and self._prompts):
            return self._chunk_tokens
        tokens, seconds = self._chunk
        most = max(self._gap_seconds / models, self._step_seconds) * tokens / seconds / prompts
        return max(min(CHUNK_LEAST, self._chunk_tokens), int(min(self._chunk_tokens, most)))
