"""A batch's caches as rectangles of rows by slots: mlx-lm's rules, in numbers.

Nothing is allocated. Each method is one of the cache's calls, of the same name or named beside it.
Source: ``mlx_lm/models/cache.py`` (0.32), ``BatchKVCache``, ``BatchRotatingKVCache`` and ``ArraysCache``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

GROWTH_TOKENS: Final = 256
"""Slots that mlx-lm's caches grow by (``step``)."""

_NEVER: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers whose caches are of one kind.

    ``bytes_per_token`` is the sum over the group's layers for one row; ``state_bytes`` is what they
    keep whatever the length; ``window_tokens`` bounds a sliding cache. ``largest_share`` is the largest
    layer's part of the group, 0 where all are alike.
    """

    kind: Literal["full", "sliding", "state"]
    layers: int
    bytes_per_token: int = 0
    state_bytes: int = 0
    window_tokens: int = 0
    largest_share: float = 0.0

    def __post_init__(self) -> None:
        least = (self.layers - 1, self.bytes_per_token, self.state_bytes, self.window_tokens)
        known = min(least) >= 0 and 0 <= self.largest_share <= 1
        if not known or (self.kind == "sliding") != (self.window_tokens > 0):
            raise ValueError(f"no such caches: {self}")


class Written(NamedTuple):
    """How far a cache is written, in slots."""

    at: int
    offset: int
    slots: int
    rotated: bool


class Extent(NamedTuple):
    """A real batch's caches, one of each group, when it had so many rows, the longest of so many tokens."""

    rows: int
    longest_tokens: int
    caches: tuple[Written, ...]


class Slots:
    """One cache group's slots for a batch of rows; mlx-lm's rules, a method for each of its calls."""

    def __init__(self, group: CacheGroup) -> None:
        self.group = group
        self.index = self.offset = self.slots = 0
        self.rotated = False

    @property
    def row_bytes(self) -> int:
        """One row's bytes in the group."""
        return self.group.bytes_per_token * self.slots + self.group.state_bytes

    @property
    def layer_bytes(self) -> float:
        """One row's bytes in the group's largest layer."""
        return self.row_bytes * (self.group.largest_share or 1 / self.group.layers)

    def write(self, real: Written) -> None:
        """Be as a real cache is."""
        self.index, self.offset, self.slots, self.rotated = real

    def advance(self, tokens: int) -> bool:
        """``update_and_fetch``; whether slots were added or copied."""
        before = self.slots
        if self.group.kind == "full":
            if self.index + tokens > self.slots:
                kept = self.index if self.index % GROWTH_TOKENS else self.slots
                self.slots = kept + GROWTH_TOKENS * -(-tokens // GROWTH_TOKENS)
            self.index += tokens
        elif self.group.kind == "sliding":
            self._slide(tokens)
        return self.slots != before

    def _slide(self, tokens: int) -> None:
        window = self.group.window_tokens
        if tokens > 1:
            self.order()
            kept = self.index if self.slots else 0
            self.slots = self.index = min(kept, window - 1) + tokens
            self.offset += tokens
            return
        if not self.slots or (self.offset >= self.slots and self.slots < window):
            self.slots += min(GROWTH_TOKENS, window - self.offset)
            self.index = self.offset
        if self.slots > window:
            self.slots = self.index = window
        if self.index == window:
            self.rotated, self.index = True, 0
        self.index += 1
        self.offset += 1

    def many(self, tokens: int) -> None:
        """Advance over decode steps in which nothing grows."""
        self.offset += tokens
        if self.group.kind == "full":
            self.index += tokens
        elif self.group.kind == "sliding":
            window = self.group.window_tokens
            self.rotated = self.rotated or self.index + tokens > window
            self.index = (self.index + tokens - 1) % window + 1

    def until_growth(self) -> int:
        """Decode steps until slots are added or copied."""
        if self.group.kind == "full":
            return self.slots - self.index
        if self.group.kind == "sliding":
            window = self.group.window_tokens
            if self.slots > window:
                return 0
            return _NEVER if self.slots == window else max(0, self.slots - self.offset)
        return _NEVER

    def trim(self, tokens: int) -> None:
        """``filter``: padding that no row needs any more goes."""
        if self.group.kind == "full":
            self.index -= tokens
            self.slots -= tokens

    def join(self, other: Slots) -> None:
        """``extend``."""
        if (self.rotated, self.index) != (other.rotated, other.index):
            self.order()
            other.order()
        self.slots = max(self.slots, other.slots)
        self.index = max(self.index, other.index)
        self.offset = max(self.offset, other.offset)

    def order(self) -> None:
        """``_temporal_order``."""
        if self.rotated:
            self.index, self.rotated = self.slots, False

    def twin(self) -> Slots:
        """A copy."""
        other = Slots(self.group)
        other.write(Written(self.index, self.offset, self.slots, self.rotated))
        return other


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
        return len(self.places) * sum(slots.row_bytes for slots in self.caches) if self.index else 0

    @property
    def layer_bytes(self) -> int:
        """The largest layer's cache."""
        largest = max((slots.layer_bytes for slots in self.caches), default=0.0)
        return int(len(self.places) * largest) if self.index else 0

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

    @property
    def _until_growth(self) -> int:
        return min((slots.until_growth() for slots in self.caches), default=_NEVER)

    @property
    def quiet_steps(self) -> int:
        """Decode steps that change nothing but lengths: to the next growth, or the next row's end."""
        return max(1, min(*(place.answer for place in self.places), self._until_growth))

    def roll(self) -> None:
        """Padding moves from the right of shorter rows to their left: a copy, and an index for each value."""
        self.copied_bytes += _ROLLED * self.layer_bytes

    def welcome(self, places: list[Place]) -> None:
        """``extend`` by rows that have nothing yet: those that are there are copied, and once more padded."""
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
