"""A batch's caches as rectangles of rows by slots.

Nothing is allocated. Each method is one of the batch's calls, of the same name or named beside it.
Source: ``mlx_lm/generate.py`` (0.32), ``PromptProcessingBatch`` and ``GenerationBatch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scheduler.slots import NEVER, CacheGroup, Extent, Slots


@dataclass(slots=True, eq=False)
class Place:
    """One row while it is replayed: tokens to come, tokens there, tokens to come after."""

    prompt: int
    length: int
    answer: int


_ROLLED: Final = 4
"""Layers that moving padding takes, where a copy takes one: indices of 32 bits beside values of 16 or 32."""


class Batch:
    """Rows that share their caches.

    ``copied_bytes`` is what the regrouping since the last evaluation will copy of one layer, the largest:
    the others' copies are gone, or not made, by then.
    """

    def __init__(self, groups: Sequence[CacheGroup]) -> None:
        self.places: list[Place] = []
        self.caches = [Slots(group) for group in groups]
        self.index = self.copied_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Every row's bytes in every group."""
        if not self.index:
            return 0
        row_bytes = 0
        for slots in self.caches:  # asked several times a step: no generator
            row_bytes += slots.row_bytes
        return len(self.places) * row_bytes

    @property
    def layer_bytes(self) -> int:
        """The largest layer's cache."""
        largest = max((slots.layer_bytes for slots in self.caches), default=0.0)
        return int(len(self.places) * largest) if self.index else 0

    @property
    def array_share(self) -> float:
        """The largest array's part of the largest layer."""
        largest = max((slots.array_bytes for slots in self.caches), default=0.0)
        return min(1.0, len(self.places) * largest / self.layer_bytes) if self.layer_bytes else 1.0

    def advance(self, tokens: int) -> None:
        """New tokens; a layer that grows has its old slots and the added ones beside the new."""
        grown, copies = False, self.index > 0
        self.index += tokens
        for slots in self.caches:
            grown = slots.advance(tokens) or grown
        if grown and copies:
            self.copied_bytes += self.layer_bytes

    def reach(self, real: Extent | None, chunk_tokens: int, late_tokens: int, *, decoding: bool) -> None:
        """Be as far as the rows are, with a real batch's slots and padding, and ``late_tokens`` further.

        Without a real one, as if they had come together.
        """
        longest = max(place.length for place in self.places)
        if real is None:
            for start in range(0, longest, chunk_tokens):
                self.advance(min(chunk_tokens, longest - start))
        else:
            for slots, written in zip(self.caches, real.caches, strict=True):
                slots.write(written)
            grown = [slots.index for slots in self.caches if slots.group.kind == "full"]
            slid = [slots.offset for slots in self.caches if slots.group.kind == "sliding"]
            self.index = max([real.longest_tokens, *(grown or slid)])
            longest = max(0, longest - real.longest_tokens)
            if longest and not decoding:
                self.advance(longest)
        if decoding:
            self._decode(late_tokens + (longest if real else 0))
        for place in self.places:
            place.length += late_tokens
        self.copied_bytes = 0

    def _decode(self, steps: int) -> None:
        while steps > 0:
            quiet = min(steps, self._until_growth)
            if quiet:
                self.go_on(quiet)
            else:
                self.advance(1)
            steps -= quiet or 1

    def go_on(self, steps: int) -> None:
        """So many quiet steps."""
        self.index += steps
        for slots in self.caches:
            slots.many(steps)
        if any(slots.copies for slots in self.caches):
            self.copied_bytes += self.layer_bytes

    def hurry(self, steps: int) -> None:
        """So many steps, without what growing copies in them: between two rows' ends a batch only grows."""
        self.index += steps
        for slots in self.caches:
            slots.skip(steps)
        for place in self.places:
            place.length += steps
            place.answer -= steps

    @property
    def _until_growth(self) -> int:
        return min((slots.until_growth() for slots in self.caches), default=NEVER)

    @property
    def quiet_steps(self) -> int:
        """Decode steps that change nothing but lengths: to the next growth, or the next row's end."""
        return max(1, min(*(place.answer for place in self.places), self._until_growth))

    def roll(self) -> None:
        """Padding moves from the right of shorter rows to their left: a copy, and an index for each value."""
        self.copied_bytes += _ROLLED * self.layer_bytes

    def welcome(self, places: list[Place]) -> None:
        """``extend`` by rows that come in: those that are there are copied, and once more padded.

        Rows with kept tokens are laid out together first (``merge``), those without any beside them.
        """
        kept = max((place.length for place in places), default=0)
        if kept:
            merged = Batch([slots.group for slots in self.caches])
            merged.places, merged.index = places, kept
            for slots in merged.caches:
                slots.merge(kept)
            self.copied_bytes += merged.layer_bytes
            self.join(merged)
            return
        if places and self.index:
            self.copied_bytes += 2 * self.layer_bytes
            for slots in self.caches:
                slots.order()
        self.places += places

    def keep(self, places: list[Place]) -> None:
        """``filter``: a copy of the rows that stay, and another where padding goes that none of them needs."""
        self.places = places
        if not places:
            self.index = self.copied_bytes = 0
            self.caches = [Slots(slots.group) for slots in self.caches]
            return
        self.copied_bytes += self.layer_bytes
        padding = self.index - max(place.length for place in places)
        if padding and self.index:
            self.index -= padding
            for slots in self.caches:
                slots.trim(padding)
            self.copied_bytes += self.layer_bytes

    def leave(self, places: list[Place]) -> Batch:
        """``split``: these rows in a batch of their own."""
        other = Batch([slots.group for slots in self.caches])
        other.index, other.caches = self.index, [slots.twin() for slots in self.caches]
        other.keep(places)
        self.keep([place for place in self.places if place not in places])
        return other

    def join(self, other: Batch) -> None:
        """``extend``: a copy of both, and padded copies of those that are shorter."""
        mine, theirs = len(self.places), len(other.places)
        if not mine:
            self.caches, self.index, self.places = other.caches, other.index, other.places
            return
        shapes = [{(slots.index, slots.slots) for slots in batch.caches} for batch in (self, other)]
        self.index = max(self.index, other.index)
        for left, right in zip(self.caches, other.caches, strict=True):
            left.join(right)
        joined = {(slots.index, slots.slots) for slots in self.caches}
        self.places += other.places
        padded = mine * (shapes[0] != joined) + theirs * (shapes[1] != joined)
        self.copied_bytes += self.layer_bytes * (len(self.places) + padded) // len(self.places)
