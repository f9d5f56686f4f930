"""Measuring a model's card: one token for its caches, a few short chunks for its transients.

Measured under the memory limit that the engine runs with, since the limit holds evaluation back and so
lowers the peak. A card is kept on disk by model files, MLX version and device.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache

from scheduler.errors import ModelUnusable
from scheduler.footprint import CARD_VERSION, CacheGroup, ModelCard
from workers.models import LoadedModel

PROBE_TOKENS: Final = (16, 64)
"""Chunk lengths probed: short, since a CPU computes them at some hundred tokens a second."""


def model_card(loaded: LoadedModel, source: str, device: str, folder: Path) -> ModelCard:
    """The model's card: the one kept for these very files, MLX and device, else a measured one.

    Raises:
        ModelUnusable: a cache of the model's cannot share a batch, or has a shape that is not known.
    """
    path = folder / f"{_fingerprint(loaded, source, device)}.json"
    try:
        return ModelCard.from_json(json.loads(path.read_text()))
    except (OSError, ValueError):
        card = measure(loaded, device)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(card.to_json()))
    partial.replace(path)
    return card


def measure(loaded: LoadedModel, device: str) -> ModelCard:
    """Measure a card.

    Raises:
        ModelUnusable: a cache of the model's cannot share a batch, or has a shape that is not known.
    """
    caches = cache_groups(loaded)
    short, long = PROBE_TOKENS
    (first_short,) = _chunk_transients(loaded, short, 1)
    first_long, second_long = _chunk_transients(loaded, long, 2)
    per_pair = max(0.0, (second_long - first_long) / long**2)
    linear_short = first_short - per_pair * short**2
    linear_long = first_long - per_pair * long**2
    per_token = max(0.0, (linear_long - linear_short) / (long - short))
    mx.clear_cache()
    return ModelCard(
        model=loaded.name,
        device=device,
        weights_bytes=loaded.weights_bytes,
        caches=caches,
        logits_bytes=loaded.vocabulary * 4,
        transient_fixed_bytes=int(max(0.0, linear_long - per_token * long)),
        transient_bytes_per_token=per_token,
        transient_bytes_per_pair=per_pair,
        context_tokens=loaded.context_tokens,
    )


def cache_groups(loaded: LoadedModel) -> tuple[CacheGroup, ...]:
    """The kinds of cache that one row has, from a run over one token.

    Raises:
        ModelUnusable: a cache of the model's cannot share a batch, or has a shape that is not known.
    """
    caches = make_prompt_cache(loaded.model)
    _evaluate(loaded, caches, 1)
    full: list[int] = []
    sliding: dict[int, list[int]] = defaultdict(list)
    state: list[int] = []
    for cache in _flat(caches):
        length = getattr(getattr(cache, "keys", None), "shape", (0, 0, 1))[2]
        if type(cache) is KVCache:
            full.append(cache.nbytes // length)
        elif type(cache) is RotatingKVCache:
            sliding[cache.max_size].append(cache.nbytes // length)
        elif isinstance(cache, ArraysCache):
            state.append(cache.nbytes)
        else:
            raise ModelUnusable(
                f"{loaded.name} has a cache that cannot share a batch: {type(cache).__name__}"
            )
    groups = [CacheGroup("full", len(full), sum(full))] if full else []
    groups += [CacheGroup("sliding", len(b), sum(b), window_tokens=w) for w, b in sorted(sliding.items())]
    groups += [CacheGroup("state", len(state), state_bytes=sum(state))] if state else []
    return tuple(groups)


def _flat(caches: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for cache in caches:
        flat += _flat(list(cache.caches)) if isinstance(cache, CacheList) else [cache]
    return flat


def _chunk_transients(loaded: LoadedModel, tokens: int, chunks: int) -> list[int]:
    """Peak bytes beyond what stays, of consecutive chunks of one prompt."""
    caches = make_prompt_cache(loaded.model)
    peaks: list[int] = []
    for _ in range(chunks):
        mx.synchronize()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        _evaluate(loaded, caches, tokens)
        grown = max(0, mx.get_active_memory() - before)
        peaks.append(max(0, mx.get_peak_memory() - before - grown))
    return peaks


def _evaluate(loaded: LoadedModel, caches: list[Any], tokens: int) -> None:
    loaded.model(mx.zeros((1, tokens), dtype=mx.int32), cache=caches)
    mx.eval([cache.state for cache in caches])
    mx.synchronize()


def _fingerprint(loaded: LoadedModel, source: str, device: str) -> str:
    folder = Path(source).expanduser()
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    parts = [CARD_VERSION, loaded.name, source, stats, version("mlx"), version("mlx-lm"), device]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
