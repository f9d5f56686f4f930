"""Rows come and go, and what they leave is cut out of larger arrays: copied together, these are let go.

At once, an array at a time, where memory is short: until then all is held. Where there is room for everything twice, that
is left to the next step, which copies what it needs while it computes, so that nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from workers.caches import flat, make_whole
from workers.gauge import one_at_a_time
from workers.generators import Generator


class Regrouping:
    """One batch's."""

    def __init__(self) -> None:
        self.left_to_step = False
        """Whether the next step copies beside what it computes."""
        self._told = True
        self._members: tuple[list[int], list[int]] = ([], [])

    def take_note(self) -> bool:
        """Whether rows came or went since this was last asked."""
        noted, self._told = not self._told, True
        return noted

    def look(self, generator: Generator, spare_bytes: int, budget_bytes: int) -> bool:
        """Copy what rows left that came or went, or leave that to the next step; whether there were any.

        Args:
            generator: it has the rows.
            spare_bytes: what the next step takes beside the copies.
            budget_bytes: of the engine; 0 to copy at once.
        """
        before, self._members = self._members, _members(generator)
        (prompts, decoding), now = before, self._members
        if decoding == now[1] and prompts == now[0][: len(prompts)]:
            return False  # new prompts were copied with their first chunk
        self._told = False
        twice = 2 * (generator.prompt_cache_nbytes + spare_bytes)
        self.left_to_step = mx.get_active_memory() + twice <= budget_bytes
        if not self.left_to_step:
            self.copy(generator)
        return True

    def copy(self, generator: Generator, which: Callable[[Any], bool] = lambda _: True) -> None:
        """Copy caches now, an array at a time; of all, or of a kind."""
        self.left_to_step = False
        with one_at_a_time(), mx.stream(generator.stream):
            for part in generator.parts:
                for cache in flat(part.prompt_cache):
                    if which(cache):
                        make_whole(cache)
            mx.synchronize()

    def begin(self) -> None:
        """The rows are gone, and their generator."""
        self.left_to_step, self._members = False, ([], [])


def _members(generator: Generator) -> tuple[list[int], list[int]]:
    """Whose caches a generator has: of prompts, and of rows that decode."""
    prompts, decoding = generator.parts
    return [*prompts.uids], [*decoding.uids]
