"""When running jobs end: their remaining tokens over what was measured of the engine's loop.

A loop makes one decode step for every row that decodes, and computes a chunk of the prompts that have begun
(see :mod:`scheduler.foresight`)::

    seconds of a loop   s + c · (prompt tokens in it)
    a prompt's loops    until its last chunk, behind the prompts that came before it
    an answer's loops   one a token
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.foresight import Row


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured of a worker's engine lately.

    Args:
        step_seconds: ``s``, of a loop beside its prompts.
        prompt_token_seconds: ``c``, of one token of a prompt.
    """

    step_seconds: float
    prompt_token_seconds: float

    def __post_init__(self) -> None:
        if not (0 <= self.step_seconds < math.inf and 0 <= self.prompt_token_seconds < math.inf):
            raise ValueError(f"no rates: {self}")


def seconds_left(rows: Iterable[Row], rates: Rates, chunk_tokens: int, prefill_rows: int) -> list[float]:
    """Until each row ends, if no other joins.

    Args:
        rows: those that run, in the order in which they came, each as far as it is.
        rates: the engine's.
        chunk_tokens: the prefill chunk.
        prefill_rows: how many prompts are computed together.
    """
    loops: list[int] = []
    chunks = prompts = 0
    for row in rows:
        left = max(0, row.prompt_tokens - row.cached_tokens)
        chunks += math.ceil(left / chunk_tokens)
        prompts += left
        begun = math.ceil(chunks / prefill_rows) if left else 0
        loops.append(begun + max(1, row.tokens - max(row.cached_tokens, row.prompt_tokens)))
    busy = math.ceil(chunks / prefill_rows)
    chunk_seconds = prompts * rates.prompt_token_seconds / busy if busy else 0.0
    return [each * rates.step_seconds + min(each, busy) * chunk_seconds for each in loops]
