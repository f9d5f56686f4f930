"""Models in the test's own process: of random weights, loaded once, and what memory they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generation_stream

from benchmarks.random_models import write_random_model
from workers.models import LoadedModel, load_model

Models = Callable[[str], LoadedModel]


def loaded_once(factory: pytest.TempPathFactory, kinds: Mapping[str, dict[str, Any]] | None = None) -> Models:
    """Gives the model of a kind, which never stops by itself; with what differs from the small one's configuration."""
    loaded: dict[str, LoadedModel] = {}

    def get(kind: str) -> LoadedModel:
        if kind not in loaded:
            folder = factory.mktemp(kind)
            write_random_model(folder, kind, (kinds or {}).get(kind), never_stops=True)
            loaded[kind] = load_model(kind, str(folder))
        return loaded[kind]

    return get


def in_memory() -> int:
    """What MLX holds once nothing is under way."""
    mx.synchronize(generation_stream)
    mx.synchronize()
    return mx.get_active_memory()
