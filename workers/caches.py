"""mlx-lm's caches: what kinds a model has, how far they are written, and copying them together.

A model whose caches mlx-lm merges has its jobs share a batch; any other runs one job at a time, on its own caches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from scheduler.errors import ModelUnsupported
from scheduler.slots import CacheGroup, Extent, Kind, Written
from workers.models import LoadedModel

_UNWRITTEN = Written(0, 0, 0, rotated=False)

_BATCHED_WRONGLY: Final = {"afm7"}
"""Models whose caches merge and whose rows are nevertheless not what they are alone (mlx-lm 0.32): the layers of
``afm7`` that reuse keys place their queries by the longest row's length, padding counted."""

_LOOKED_AT: Final = (1, 255, 257, 511, 513)
"""Lengths at which a cache of an unknown kind is looked at: what grows by 256 tokens or by a part of that has grown as
often at 257 as at 513 for each token between, and what closes groups of tokens is fullest just before."""

_COMPUTED: Final = 256
"""Tokens that are computed at once where caches cannot be laid out."""


def flat(caches: Iterable[Any]) -> Iterator[Any]:
    """Every cache, those in lists too."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from flat(cache.caches)
        else:
            yield cache


def kind_of(cache: Any) -> tuple[Kind, int]:
    """A cache's kind and its window, 0 where it has none; it may be of one row or of a batch."""
    if type(cache) in {KVCache, BatchKVCache}:
        return "full", 0
    if type(cache) in {RotatingKVCache, BatchRotatingKVCache}:
        return "sliding", cache.max_size
    if type(cache) is ChunkedKVCache:
        return "chunked", cache.chunk_size
    return ("state" if isinstance(cache, ArraysCache) else "linear"), 0


def runs_alone(loaded: LoadedModel) -> bool:
    """Whether a model's jobs run one at a time: its caches do not merge, or do so wrongly."""
    kinds = {kind_of(cache)[0] for cache in flat(make_prompt_cache(loaded.model))}
    return bool(kinds & {"chunked", "linear"}) or loaded.model.model_type in _BATCHED_WRONGLY


def cache_groups(loaded: LoadedModel) -> tuple[CacheGroup, ...]:
    """The kinds of cache that one row has, from a run over one token; over some hundreds where one is of no known kind.

    Raises:
        ModelUnsupported: it has a cache that it does not use, or whose size cannot be told.
    """
    layers: dict[tuple[Kind, int], list[list[int]]] = defaultdict(list)
    for cache in flat(filled(loaded, 1)):
        kind, window_tokens = kind_of(cache)
        sizes = [array.nbytes for array in _arrays(cache)]
        if not sizes:
            raise ModelUnsupported(f"{loaded.name} has a cache that it does not use: {type(cache).__name__}")
        if kind == "linear":
            _told_bytes(loaded, cache)
        elif kind != "state":
            sizes = [array.nbytes // array.shape[2] for array in _arrays(cache)]
        layers[kind, window_tokens].append(sizes)
    unknown = layers.pop(("linear", 0), None)
    groups = [_group(*which, layers[which]) for which in sorted(layers)]
    return (*groups, _measured(loaded)) if unknown else tuple(groups)


def _arrays(cache: Any) -> list[mx.array]:
    """What a cache holds; what else its state says, lengths and names, left out."""
    kept = cache.cache if isinstance(cache, ArraysCache) else getattr(cache, "state", ())
    leaves: Any = tree_flatten(kept)
    return [array for _, array in leaves if isinstance(array, mx.array) and array.ndim]


def _told_bytes(loaded: LoadedModel, cache: Any) -> int:
    """What a cache of an unknown kind says that it takes."""
    try:
        return int(cache.nbytes)
    except (AttributeError, NotImplementedError, TypeError) as error:
        text = f"{loaded.name} has a cache whose size cannot be told: {type(cache).__name__}"
        raise ModelUnsupported(text) from error


def _measured(loaded: LoadedModel) -> CacheGroup:
    """The caches of unknown kinds: lines above what they take at a few lengths, each as steep as its last part."""
    caches: list[Any] = make_prompt_cache(loaded.model)
    seen: list[list[int]] = []
    for before, length in zip((0, *_LOOKED_AT), _LOOKED_AT, strict=False):
        _compute(loaded, caches, length - before)
        unknown = [cache for cache in flat(caches) if kind_of(cache)[0] == "linear"]
        seen.append([_told_bytes(loaded, cache) for cache in unknown])
    at = dict(zip(_LOOKED_AT, seen, strict=True))
    slopes = [max(0, -((near - far) // 256)) for near, far in zip(at[257], at[513], strict=True)]
    lines = [
        (slope, max(0, *(sizes[layer] - slope * length for length, sizes in at.items())))
        for layer, slope in enumerate(slopes)
    ]
    totals = [slope * _LOOKED_AT[-1] + fixed for slope, fixed in lines]
    return CacheGroup(
        "linear",
        len(lines),
        bytes_per_token=sum(slopes),
        state_bytes=sum(fixed for _, fixed in lines),
        largest_share=max(totals) / max(1, sum(totals)),
        array_share=max(totals) / max(1, sum(totals)),
    )


def _compute(loaded: LoadedModel, caches: list[Any], tokens: int) -> None:
    """So many tokens more in a model's caches."""
    for start in range(0, tokens, _COMPUTED):
        loaded.model(mx.zeros((1, min(_COMPUTED, tokens - start)), dtype=mx.int32), cache=caches)
        mx.eval([cache.state for cache in caches])
        for cache in flat(caches):
            if keeps_more(cache):
                make_whole(cache)
    mx.synchronize()


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
    """Caches as after so many tokens: one computed, the rest laid out as zeros; all computed where they cannot be."""
    caches: list[Any] = make_prompt_cache(loaded.model)
    if any(kind_of(cache)[0] == "linear" for cache in flat(caches)):
        _compute(loaded, caches, tokens)
        return caches
    _compute(loaded, caches, 1)
    for cache in flat(caches):
        kind, window_tokens = kind_of(cache)
        if tokens > 1 and kind != "state":
            kept = min(tokens, window_tokens or tokens)
            for name in ("keys", "values"):
                one = getattr(cache, name)
                setattr(cache, name, mx.zeros((*one.shape[:2], kept, one.shape[3]), dtype=one.dtype))
            cache.offset = tokens
            if kind == "sliding":
                cache._idx = kept  # noqa: SLF001 - where the next token goes; set nowhere else
            if kind == "chunked":
                cache.start_position = tokens - kept
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
        which = kind_of(cache)
        if which[0] == "linear":
            length = max(lengths, default=0)
            seen[which] = Written(length, length, length, rotated=False)
        elif which[0] != "state" and cache.keys is not None:
            seen[which] = Written(*_written(cache), rotated=_rotated(cache))
    if not seen and not all(group.kind == "state" for group in groups):
        return None
    written = tuple(seen.get((group.kind, group.window_tokens), _UNWRITTEN) for group in groups)
    return Extent(len(lengths), max(lengths), written) if lengths else None


def extents_of(
    parts: tuple[Any, Any], groups: Sequence[CacheGroup], lengths: Mapping[int, int]
) -> tuple[Extent | None, Extent | None]:
    """How far both parts of a generator are written, its prompts and its rows that decode.

    Args:
        parts: the generator's.
        groups: the model's kinds of cache.
        lengths: of its rows, in tokens, by their numbers.
    """
    prompts, decoding = (
        extent_of(part.prompt_cache, groups, [lengths[uid] for uid in part.uids]) for part in parts
    )
    return prompts, decoding


def can_be_cut(caches: Iterable[Any], tokens: int) -> bool:
    """Whether a batch's row of so many tokens has all of them in its caches, and can be cut at any."""
    return all(
        type(cache) is BatchKVCache
        or (type(cache) is BatchRotatingKVCache and tokens <= cache.max_size and not cache.rotated)
        for cache in flat(caches)
    )


def cut_out(cache: Any, at: int, length: int, tokens: int) -> tuple[mx.array, mx.array]:
    """The first tokens of a batch's row, in memory of their own.

    Args:
        cache: a batch's, that can be cut.
        at: the row.
        length: its tokens, which end where the next one goes.
        tokens: so many of them.
    """
    start = cache._idx - length  # noqa: SLF001 - as below
    keys, values = (array[at : at + 1, :, start : start + tokens] * 1 for array in (cache.keys, cache.values))
    return keys, values


def _written(cache: Any) -> tuple[int, int, int]:
    """Where a cache's next token goes, the tokens that it has seen, and its slots."""
    slots = cache.keys.shape[2]
    if type(cache) is BatchKVCache:
        return cache._idx, cache._idx, slots  # noqa: SLF001 - as all below: mlx-lm shows it nowhere else
    if type(cache) is BatchRotatingKVCache:
        return cache._idx, cache._offset, slots  # noqa: SLF001
    if type(cache) is RotatingKVCache:
        return cache._idx, cache.offset, slots  # noqa: SLF001
    return cache.offset - getattr(cache, "start_position", 0), cache.offset, slots


def _rotated(cache: Any) -> bool:
    """Whether what a window kept last stands before what it kept first."""
    if type(cache) is RotatingKVCache:
        return bool(cache._idx < cache.offset)  # noqa: SLF001
    return bool(getattr(cache, "rotated", False))


def keeps_more(cache: Any) -> bool:
    """Whether what a chunk leaves in a cache may be cut out of more, which would stay with it."""
    return kind_of(cache)[0] in {"state", "linear"}


def make_whole(cache: Any) -> None:
    """Evaluate a cache, an array at a time, and let go of what it was cut out of."""
    if isinstance(cache, ArraysCache):
        arrays: list[Any] = cache.cache
        for at in range(len(arrays)):  # no name for an array: it would hold the old one
            if arrays[at] is not None:
                arrays[at] = mx.contiguous(arrays[at])
                mx.eval(arrays[at])
        return
    for name in ("keys", "values") if hasattr(cache, "keys") else [*vars(cache)]:
        if isinstance(getattr(cache, name), mx.array):
            setattr(cache, name, mx.contiguous(getattr(cache, name)))
            mx.eval(getattr(cache, name))
