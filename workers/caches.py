"""mlx-lm's caches: what kinds a model has, how far they are written, and copying them together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from scheduler.errors import ModelUnsupported
from scheduler.slots import CacheGroup, Extent, Kind, Written
from workers.models import LoadedModel

_UNWRITTEN = Written(0, 0, 0, rotated=False)


def flat(caches: Iterable[Any]) -> Iterator[Any]:
    """Every cache, those in lists too."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from flat(cache.caches)
        else:
            yield cache


def cache_groups(loaded: LoadedModel) -> tuple[CacheGroup, ...]:
    """The kinds of cache that one row has, from a run over one token.

    Raises:
        ModelUnsupported: a cache of the model's cannot share a batch, or has a shape that is not known.
    """
    layers: dict[tuple[Kind, int], list[list[int]]] = defaultdict(list)
    for cache in flat(filled(loaded, 1)):
        if not _arrays(cache):
            raise ModelUnsupported(f"{loaded.name} has a cache that it does not use: {type(cache).__name__}")
        if type(cache) is KVCache or type(cache) is RotatingKVCache:
            kind: Kind = "full" if type(cache) is KVCache else "sliding"
            layers[kind, getattr(cache, "max_size", 0)].append(
                [array.nbytes // array.shape[2] for array in _arrays(cache)]
            )
        elif isinstance(cache, ArraysCache):
            layers["state", 0].append([array.nbytes for array in _arrays(cache)])
        else:
            raise ModelUnsupported(
                f"{loaded.name} has a cache that cannot share a batch: {type(cache).__name__}"
            )
    return tuple(_group(*which, layers[which]) for which in sorted(layers))


def _arrays(cache: Any) -> list[Any]:
    arrays = cache.cache if isinstance(cache, ArraysCache) else (cache.keys, cache.values)
    return [array for array in arrays if array is not None]


def _group(kind: Kind, window_tokens: int, layers: list[list[int]]) -> CacheGroup:
    total = sum(map(sum, layers))
    return CacheGroup(
        kind,
        len(layers),
        bytes_per_token=0 if kind == "state" else total,
        state_bytes=total if kind == "state" else 0,
        window_tokens=window_tokens,
        largest_share=max(map(sum, layers)) / total if total else 0.0,
        array_share=max(size for layer in layers for size in layer) / total if total else 0.0,
    )


def filled(loaded: LoadedModel, tokens: int) -> list[Any]:
    """Caches as after so many tokens: one computed, the rest laid out as zeros."""
    caches: list[Any] = make_prompt_cache(loaded.model)
    loaded.model(mx.zeros((1, 1), dtype=mx.int32), cache=caches)
    mx.eval([cache.state for cache in caches])
    mx.synchronize()
    for cache in flat(caches):
        if tokens > 1 and type(cache) in {KVCache, RotatingKVCache}:
            kept = min(tokens, getattr(cache, "max_size", tokens))
            for name in ("keys", "values"):
                one = getattr(cache, name)
                setattr(cache, name, mx.zeros((*one.shape[:2], kept, one.shape[3]), dtype=one.dtype))
            cache.offset = tokens
            if type(cache) is RotatingKVCache:
                cache._idx = kept  # noqa: SLF001 - where the next token goes; set nowhere else
    mx.eval([cache.state for cache in caches])
    return caches


def filled_extent(groups: Sequence[CacheGroup], tokens: int) -> Extent:
    """How far a batch's caches are written that begins with :func:`filled` ones."""
    kept = (min(tokens, group.window_tokens or tokens) for group in groups)
    return Extent(1, tokens, tuple(Written(each, each, each, rotated=False) for each in kept))


def extent_of(caches: Iterable[Any], groups: Sequence[CacheGroup], lengths: Sequence[int]) -> Extent | None:
    """How far a batch's caches are written; None where nothing is.

    Args:
        caches: a generator's.
        groups: the model's kinds of cache.
        lengths: of its rows, in tokens.
    """
    seen: dict[tuple[str, int], Written] = {}
    for cache in flat(caches):
        if type(cache) is BatchKVCache and cache.keys is not None:
            index = cache._idx  # noqa: SLF001 - as all below: mlx-lm shows it nowhere else
            seen["full", 0] = Written(index, index, cache.keys.shape[2], rotated=False)
        elif type(cache) is BatchRotatingKVCache and cache.keys is not None:
            index, offset = cache._idx, cache._offset  # noqa: SLF001
            seen["sliding", cache.max_size] = Written(index, offset, cache.keys.shape[2], cache.rotated)
    if not seen and not all(group.kind == "state" for group in groups):
        return None
    written = tuple(seen.get((group.kind, group.window_tokens), _UNWRITTEN) for group in groups)
    return Extent(len(lengths), max(lengths), written) if lengths else None


def can_be_cut(caches: Iterable[Any], tokens: int) -> bool:
    """Whether a batch's row of so many tokens has all of them in its caches, and can be cut at any."""
    return all(
        type(cache) is BatchKVCache or (type(cache) is BatchRotatingKVCache and tokens <= cache.max_size)
        for cache in flat(caches)
    )


def is_state(cache: Any) -> bool:
    """Whether a cache keeps the same bytes whatever the length."""
    return isinstance(cache, ArraysCache)


def make_whole(cache: Any) -> None:
    """Evaluate a cache, an array at a time, and let go of what it was cut out of."""
    if isinstance(cache, ArraysCache):
        arrays: list[Any] = cache.cache
        for at in range(len(arrays)):  # no name for an array: it would hold the old one
            if arrays[at] is not None:
                arrays[at] = mx.contiguous(arrays[at])
                mx.eval(arrays[at])
        return
    for name in ("keys", "values"):
        if getattr(cache, name) is not None:
            setattr(cache, name, mx.contiguous(getattr(cache, name)))
            mx.eval(getattr(cache, name))
