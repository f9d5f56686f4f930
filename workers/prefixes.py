"""Caches kept of prompts and answers, so that jobs that begin alike compute what they share once.

What is kept is reclaimable: bounded in bytes, least recently used goes first, and the engine drops it before anything
else. mlx-lm's ``LRUPromptCache`` copies a whole entry for each look, and its trie walks every longer entry; here a look
compares bytes, and gives slices of what is kept, which mlx-lm copies into its batch.

What a job finds here shows, in ``cached_tokens`` and in its time: who could find what another's job left would learn how
that one's prompt began, word by word. So jobs share within a scope: that of their API key, or the common one of all who
came without. A system prompt that several keys' jobs have is computed and kept once for each of the keys.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from workers.budget import Budget, in_use
from workers.caches import flat
from workers.wire import Message

LEAST_TOKENS: Final = 64
"""Fewer are computed about as soon as they are copied, by a model that computes them quickly."""

_MOST: Final = 256
"""Entries: a look compares each."""

_SHARE: Final = 8
"""Of the budget, the part that may be kept where the operator says nothing."""

_TOKEN_BYTES: Final = array("i").itemsize

_Layers = tuple[tuple[mx.array, mx.array], ...]

_Entry = tuple[str, str, bytes]
"""A model's name, a scope, and tokens as :func:`packed` has them."""


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """What is kept of how a job begins: so many tokens, and their keys and values in each layer."""

    tokens: int
    _layers: _Layers

    def caches(self, model: Any) -> list[Any]:
        """A row's caches as after these tokens, to be merged into a batch: slices of what is kept, no copies."""
        caches: list[Any] = make_prompt_cache(model)
        for cache, (keys, values) in zip(flat(caches), self._layers, strict=True):
            cache.keys, cache.values = keys[..., : self.tokens, :], values[..., : self.tokens, :]
            cache.offset = self.tokens
            if type(cache) is RotatingKVCache:
                cache._idx = self.tokens  # noqa: SLF001 - where the next token goes; set nowhere else
        return caches


class Prefixes:
    """What one engine keeps, of every model.

    Args:
        budget: the engine's.
        setting: the most that may be kept, in bytes; None for a share of the budget.
    """

    def __init__(self, budget: Budget, setting: int | None = None) -> None:
        self.kept_bytes = 0
        self._budget, self._setting = budget, setting
        self._kept: OrderedDict[_Entry, _Layers] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def limit_bytes(self) -> int:
        """What may be kept at most; 0 where nothing is, or memory ran out a short while ago."""
        if self._budget.frugal:
            return 0
        return self._budget.steady_bytes // _SHARE if self._setting is None else self._setting

    @property
    def used_bytes(self) -> int:
        """What the engine uses beside what is kept."""
        return self._budget.used_bytes() - self.kept_bytes

    def in_use(self, peak_bytes: int = 0) -> dict[str, int]:
        """What the engine uses, for the worker, to whom what is kept is a cache."""
        told = in_use(peak_bytes)
        told["active_bytes"] = max(0, told["active_bytes"] - self.kept_bytes)
        told["cache_bytes"] += self.kept_bytes
        return told | {"prefix_cache_bytes": self.kept_bytes}

    def find(
        self, model: str, tokens: Sequence[int], least: int = LEAST_TOKENS, scope: str = ""
    ) -> Beginning | None:
        """The longest beginning of these tokens that is kept, at least one left to compute; None where none is.

        Args:
            model: whose.
            tokens: of a prompt.
            least: how many must be alike.
            scope: the job's: others' are not looked at.
        """
        if not self._kept or len(tokens) <= least:
            return None
        wanted, best, longest = packed(tokens[:-1]), None, least - 1
        for key in reversed(self._kept):
            if key[:2] == (model, scope) and (alike := tokens_alike(key[2], wanted)) > longest:
                best, longest = key, alike
        return None if best is None else Beginning(longest, self._used(best))

    def keep(
        self,
        model: str,
        tokens: Sequence[int],
        caches: Iterable[Any],
        spare_bytes: int = 0,
        scope: str = "",
    ) -> None:
        """Keep a row's caches where they can be cut at any length and there is room; its own beginnings go for it.

        Args:
            model: whose they are.
            tokens: those that the caches hold.
            caches: the row's, taken out of its batch and not yet evaluated; they are used up.
            spare_bytes: of the room, what is to be left.
            scope: the job's, whose they were.
        """
        row, whole = [*flat(caches)], packed(tokens)
        if not all(_is_whole(cache, len(tokens)) for cache in row):
            return
        same = [key for key in self._kept if key[:2] == (model, scope)]
        if longer := [key for key in same if key[2].startswith(whole)]:
            self._used(longer[0])
            return
        shorter = [key for key in same if whole.startswith(key[2])]
        sizes = [cache.nbytes for cache in row]
        size = sum(sizes)
        given_back = sum(_bytes(self._kept[key]) for key in shorter)
        room = self._budget.now_bytes - self._budget.used_bytes() + given_back - spare_bytes
        if size > self.limit_bytes or size + max(sizes) > room:  # of one layer the batch's slice is there too
            return
        for key in shorter:
            self._drop(key)
        self.shrink(self.limit_bytes - size, most=_MOST - 1)
        self._kept[model, scope, whole] = tuple(map(_copied, row))
        self.kept_bytes += size

    def shrink(self, limit_bytes: int, most: int = _MOST) -> bool:
        """Drop what was least recently used, until no more is kept; whether anything was dropped."""
        before = len(self._kept)
        while self._kept and (self.kept_bytes > limit_bytes or len(self._kept) > most):
            self._drop(next(iter(self._kept)))
        return len(self._kept) < before

    def within(self, budget_bytes: int) -> bool:
        """Drop what so much has no room for beside what is used; whether anything was dropped."""
        dropped = bool(self._kept) and self.shrink(max(0, budget_bytes - self.used_bytes))
        if dropped:
            mx.clear_cache()
        return dropped

    def heed(self, reading: Message) -> dict[str, int]:
        """Keep what a reading of the host has room for, and nothing where its kernel is short; what is in use then."""
        pressed = "kernel_pressure_available" in reading["limits_bytes"]
        self.within(0 if pressed else self._budget.now_bytes)
        return self.in_use()

    def make_room(self, weights_bytes: int) -> None:
        """Drop what a model to be loaded has no room for, and as much again to measure it.

        Args:
            weights_bytes: its; 0 where they are not known.
        """
        self.within(self._budget.now_bytes - 2 * weights_bytes if weights_bytes else 0)

    def forget(self, model: str) -> None:
        """Drop what is a model's."""
        for key in [key for key in self._kept if key[0] == model]:
            self._drop(key)

    def _used(self, key: _Entry) -> _Layers:
        self._kept.move_to_end(key)
        return self._kept[key]

    def _drop(self, key: _Entry) -> None:
        self.kept_bytes -= _bytes(self._kept.pop(key))


def packed(tokens: Sequence[int]) -> bytes:
    """Tokens as bytes, to be compared."""
    return array("i", tokens).tobytes()


def _bytes(layers: _Layers) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in layers)


def tokens_alike(one: bytes, other: bytes) -> int:
    """Tokens with which both begin: halved, since comparing bytes is as fast as memory."""
    low, high = 0, min(len(one), len(other)) // _TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        end = middle * _TOKEN_BYTES
        if one[:end] == other[:end]:
            low = middle
        else:
            high = middle - 1
    return low


def _is_whole(cache: Any, tokens: int) -> bool:
    """Whether a cache has all of the tokens, and can be cut at any of them."""
    kind = type(cache)
    if kind is not KVCache and (kind is not RotatingKVCache or tokens > cache.max_size):
        return False
    return cache.keys is not None and cache.keys.shape[2] == cache.values.shape[2] == cache.offset == tokens


def _copied(cache: Any) -> tuple[mx.array, mx.array]:
    """A cache's arrays to be, in memory of their own; it lets go of them, so that they are not there twice.

    Multiplied, not made contiguous: that shares a small batch's memory, and its next step would have to copy itself.
    One layer after another: MLX makes room for all that it is asked for at once, and taken together every layer's slice
    of its batch was there beside its copy.
    """
    copies = cache.keys * 1, cache.values * 1
    cache.keys = cache.values = None
    mx.eval(copies)
    return copies
