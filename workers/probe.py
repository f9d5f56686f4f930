"""Measuring a model's card: one token for its caches, a few chunks for what steps take.

Measured with the batch generator that jobs will run in, an operation at a time: a device may run ahead of what
is freed while there is room, and near the budget it is not let; so this is what a step must have. A long
context is not computed but laid out: a cache filled with zeros costs no time, and the chunk that follows
attends to it as to any other.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache

from scheduler.errors import ModelUnsupported
from scheduler.footprint import ModelCard
from scheduler.foresight import Row, next_loop
from scheduler.rectangles import GROWTH_TOKENS, CacheGroup
from workers.gauge import one_at_a_time
from workers.models import LoadedModel

_SHORT: Final = 15
"""The chunk length that is always probed: a CPU may compute no more than some ten tokens a second. Odd, as most
last chunks are: some kernels pad them to a round length, in a copy."""

_LONGER: Final = (63, 255)
"""Probed where the time allows, then the engine's own chunk, then one token less."""

_LONG_COST: Final = 5
"""Times its tokens that a length costs: its first chunk, and one at each of two long contexts."""

_FEW: Final = 7
"""Tokens of each row where two of different lengths are compared with two alike."""

_CONTEXT_TOKENS: Final = 4096
"""The longest context laid out, where memory allows."""

_CONTEXT_SHARE: Final = 8
"""Of the free memory, what a laid-out context may take."""

_HALF_LAYER: Final = 0.5
"""The least that is copied at once: keys, then values."""

_FLOOR_SECONDS: Final = 5.0
"""What one length may cost in any case, and half of the time that loading took where that is more."""


def measure(
    loaded: LoadedModel,
    device: str,
    *,
    chunk_tokens: int = 512,
    room_bytes: int = 1 << 30,
    load_seconds: float = 0.0,
) -> ModelCard:
    """Measure a card.

    Args:
        loaded: the model.
        device: its name, for the card.
        chunk_tokens: the engine's prefill chunk.
        room_bytes: what may be taken for a moment beside the weights.
        load_seconds: what loading took; no chunk is measured that would cost half of it.

    Raises:
        ModelUnsupported: a cache of the model's cannot share a batch, or has a shape that is not known.
    """
    groups = cache_groups(loaded)
    decode = _run(loaded, [_SHORT + 1], _SHORT, steps=3)[-1]  # kernels are compiled at their first use
    points: dict[int, int] = {}
    pace = 0.0
    for tokens in dict.fromkeys((_SHORT, *_LONGER, chunk_tokens, max(1, chunk_tokens - 1))):
        if _LONG_COST * tokens * pace > max(_FLOOR_SECONDS, load_seconds / 2):
            break
        began = time.monotonic()
        points[tokens] = _run(loaded, [tokens + 1], tokens, steps=1)[0]
        pace = min(pace or math.inf, (time.monotonic() - began) / tokens)
    per_token, per_pair = _attention(loaded, groups, max(points), room_bytes)
    padding = _padding(loaded, groups, room_bytes)
    copied = _copied_layers(loaded, groups, decode, room_bytes)
    mx.clear_cache()
    return ModelCard(
        model=loaded.name,
        device=device,
        weights_bytes=loaded.weights_bytes,
        caches=groups,
        logits_bytes=loaded.vocabulary * 4,
        chunk_bytes=tuple(sorted(points.items())),
        attention_bytes_per_token=per_token,
        attention_bytes_per_pair=per_pair,
        padded_bytes_per_pair=padding,
        decode_bytes=decode,
        context_tokens=loaded.context_tokens,
        copied_layers=copied,
    )


def cache_groups(loaded: LoadedModel) -> tuple[CacheGroup, ...]:
    """The kinds of cache that one row has, from a run over one token.

    Raises:
        ModelUnsupported: a cache of the model's cannot share a batch, or has a shape that is not known.
    """
    full: list[int] = []
    sliding: dict[int, list[int]] = defaultdict(list)
    state: list[int] = []
    for cache in _flat(_filled(loaded, 1)):
        length = getattr(getattr(cache, "keys", None), "shape", (0, 0, 1))[2]
        if type(cache) is KVCache:
            full.append(cache.nbytes // length)
        elif type(cache) is RotatingKVCache:
            sliding[cache.max_size].append(cache.nbytes // length)
        elif isinstance(cache, ArraysCache):
            state.append(cache.nbytes)
        else:
            raise ModelUnsupported(
                f"{loaded.name} has a cache that cannot share a batch: {type(cache).__name__}"
            )
    groups = [CacheGroup("full", len(full), sum(full))] if full else []
    groups += [CacheGroup("sliding", len(b), sum(b), window_tokens=w) for w, b in sorted(sliding.items())]
    groups += [CacheGroup("state", len(state), state_bytes=sum(state))] if state else []
    return tuple(groups)


def _filled(loaded: LoadedModel, tokens: int) -> list[Any]:
    """Caches as after so many tokens: one computed, the rest laid out as zeros."""
    caches: list[Any] = make_prompt_cache(loaded.model)
    loaded.model(mx.zeros((1, 1), dtype=mx.int32), cache=caches)
    mx.eval([cache.state for cache in caches])
    mx.synchronize()
    for cache in _flat(caches):
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


def _flat(caches: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for cache in caches:
        flat += _flat(list(cache.caches)) if isinstance(cache, CacheList) else [cache]
    return flat


def _attention(
    loaded: LoadedModel, groups: Sequence[CacheGroup], chunk: int, room_bytes: int
) -> tuple[float, float]:
    """Bytes per new token, and per new token and key: the line through a chunk at two long contexts.

    The chunk is the longest that there was time for: where something takes memory by the context alone, as
    latent attention does, a shorter one makes this too large.
    """
    far = _far(groups, room_bytes)
    if not far:
        return 0.0, 0.0
    chunks = 1 if chunk >= GROWTH_TOKENS else 2  # a short one's first makes the caches grow, as few do
    near, more = (
        _run(loaded, [chunks * chunk + 1], chunk, steps=chunks, caches=[_filled(loaded, context)])[-1]
        for context in (far // 2, far)
    )
    per_pair = max(0.0, (more - near) / (chunk * (far - far // 2)))
    return more / chunk - per_pair * (far + chunks * chunk), per_pair


def _padding(loaded: LoadedModel, groups: Sequence[CacheGroup], room_bytes: int) -> float:
    """Bytes more per new token and key, where two rows have contexts of different lengths."""
    far = _far(groups, room_bytes // 2)
    if not far:
        return 0.0
    alike, padded = (
        _run(loaded, [2 * _FEW + 1] * 2, _FEW, steps=2, caches=[_filled(loaded, each) for each in contexts])[
            -1
        ]
        for contexts in ((far, far), (far, far // 2))
    )
    return max(0.0, (padded - alike) / (2 * _FEW * (far + 2 * _FEW)))


def _far(groups: Sequence[CacheGroup], room_bytes: int) -> int:
    """The longest context that is laid out, in tokens; 0 where the model has none."""
    longest = max(
        (group.window_tokens or _CONTEXT_TOKENS for group in groups if group.kind != "state"), default=0
    )
    per_slot = sum(group.bytes_per_token for group in groups)
    return min(longest, max(512, room_bytes // _CONTEXT_SHARE // per_slot)) if per_slot else 0


def _copied_layers(
    loaded: LoadedModel, groups: tuple[CacheGroup, ...], decode_bytes: int, room_bytes: int
) -> float:
    """Layers' copies that are alive at once, seen where a row begins to decode and its caches are full."""
    per_slot = sum(group.bytes_per_token for group in groups)
    if not per_slot:
        return 1.0
    full = max(256, min(4096, room_bytes // _CONTEXT_SHARE // per_slot) // 256 * 256)
    taken = _run(loaded, [1], _SHORT, steps=1, caches=[_filled(loaded, full)])[0]
    (step,) = next_loop(groups, [Row(full + 1, 2, full)], _SHORT, 1, ((full, full), None)).steps
    copied = taken + step.cache_bytes - step.held_bytes - decode_bytes
    return round(max(_HALF_LAYER, copied / max(1, step.copied_bytes)), 2)


def _run(
    loaded: LoadedModel, prompts: list[int], chunk_tokens: int, *, steps: int, caches: list[Any] | None = None
) -> list[int]:
    """What each step of a generator takes beyond the caches that it leaves, in bytes, for prompts so long."""
    mx.synchronize()
    mx.clear_cache()
    rows = len(prompts)
    generator: Any = BatchGenerator(loaded.model, prefill_batch_size=rows, prefill_step_size=chunk_tokens)
    generator.insert([[0] * tokens for tokens in prompts], max_tokens=[steps] * rows, caches=caches)
    caches = None
    before = mx.get_active_memory() - generator.prompt_cache_nbytes
    taken = []
    for _ in range(steps):
        mx.synchronize()
        mx.reset_peak_memory()
        with one_at_a_time():
            generator.next()
            mx.synchronize()
        taken.append(max(0, mx.get_peak_memory() - before - generator.prompt_cache_nbytes))
    generator.close()
    return taken
