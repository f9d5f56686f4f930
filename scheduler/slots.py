"""How a cache's slots come and go: mlx-lm's rules, in numbers.

Nothing is allocated. Each method is one of the cache's calls, of the same name or named beside it.
Source: ``mlx_lm/models/cache.py`` (0.32), ``BatchKVCache``, ``BatchRotatingKVCache`` and ``ArraysCache``; where a model
runs one job at a time their plain twins, which go by the same rules, and ``ChunkedKVCache``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

GROWTH_TOKENS: Final = 256
"""Slots that mlx-lm's caches grow by (``step``)."""

NEVER: Final = 1 << 40

Kind = Literal["full", "sliding", "state", "chunked", "linear"]
"""``chunked`` forgets all but its window before each call; ``linear`` is any other cache, of which no more is known than
how many bytes it takes at a few lengths. Both are of models that run one job at a time."""


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers whose caches are of one kind.

    ``bytes_per_token`` is the sum over the group's layers for one row; ``state_bytes`` is what they
    keep whatever the length; ``window_tokens`` bounds a sliding or chunked cache. ``largest_share`` is the largest
    layer's part of the group, and ``array_share`` its largest array's, 0 where all are alike.
    """

    kind: Kind
    layers: int
    bytes_per_token: int = 0
    state_bytes: int = 0
    window_tokens: int = 0
    largest_share: float = 0.0
    array_share: float = 0.0

    def __post_init__(self) -> None:
        least = (self.layers - 1, self.bytes_per_token, self.state_bytes, self.window_tokens)
        known = min(least) >= 0 and 0 <= self.array_share <= 1 and 0 <= self.largest_share <= 1
        if not known or (self.kind in {"sliding", "chunked"}) != (self.window_tokens > 0):
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

    @property
    def array_bytes(self) -> float:
        """One row's bytes in the group's largest array: half of a layer's where keys and values are alike."""
        return self.row_bytes * (self.group.array_share or 0.5 / self.group.layers)

    def write(self, real: Written) -> None:
        """Be as a real cache is."""
        self.index, self.offset, self.slots, self.rotated = real

    def advance(self, tokens: int) -> bool:
        """``update_and_fetch``; whether slots were added or copied."""
        if self.copies and self.group.kind == "chunked":  # ``maybe_trim_front``
            self.index = self.slots = self.group.window_tokens
        before = self.slots
        if self.group.kind in {"full", "chunked"}:
            if self.index + tokens > self.slots:
                kept = self.index if self.index % GROWTH_TOKENS else self.slots
                self.slots = kept + GROWTH_TOKENS * -(-tokens // GROWTH_TOKENS)
            self.index += tokens
        elif self.group.kind == "sliding":
            self._slide(tokens)
        elif self.group.kind == "linear":
            self.many(tokens)
        return self.slots != before

    @property
    def copies(self) -> bool:
        """Whether the next call copies, though nothing may grow by it."""
        kind = self.group.kind
        return kind == "linear" or (kind == "chunked" and self.index > self.group.window_tokens)

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
        elif self.group.kind == "chunked":
            self.index = min(self.index + tokens, self.group.window_tokens + 1)
        elif self.group.kind == "linear":
            self.index = self.slots = self.offset
        elif self.group.kind == "sliding":
            window = self.group.window_tokens
            self.rotated = self.rotated or self.index + tokens > window
            self.index = (self.index + tokens - 1) % window + 1

    def skip(self, tokens: int) -> None:
        """Advance over decode steps however often it grows in them."""
        if self.group.kind == "full":
            lacking = self.index + tokens - self.slots
            self.slots += GROWTH_TOKENS * max(0, -(-lacking // GROWTH_TOKENS))
            self.many(tokens)
            return
        while tokens > 0:
            quiet = min(tokens, self.until_growth())
            if quiet:
                self.many(quiet)
            else:
                self.advance(1)
            tokens -= quiet or 1

    def until_growth(self) -> int:
        """Decode steps until slots are added or copied."""
        if self.group.kind == "full":
            return self.slots - self.index
        if self.group.kind == "sliding":
            window = self.group.window_tokens
            if self.slots > window:
                return 0
            return NEVER if self.slots == window else max(0, self.slots - self.offset)
        if self.group.kind == "chunked":
            window = self.group.window_tokens
            if self.index > window:
                return NEVER if self.slots == window + GROWTH_TOKENS else 0
            return min(self.slots - self.index, window + 1 - self.index)
        return NEVER

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

    def merge(self, tokens: int) -> None:
        """``merge``, of rows of which the longest has so many tokens, and no window is full."""
        if self.group.kind != "state":
            self.write(Written(tokens, tokens, tokens, rotated=False))

    def order(self) -> None:
        """``_temporal_order``."""
        if self.rotated:
            self.index, self.rotated = self.slots, False

    def twin(self) -> Slots:
        """A copy."""
        other = Slots(self.group)
        other.write(Written(self.index, self.offset, self.slots, self.rotated))
        return other
