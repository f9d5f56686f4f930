"""How models are loaded, and the limits that MLX is given: MLX itself is watched, or asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from scheduler.errors import ModelUnusable
from workers import models
from workers.engine import Engine

GIB = 1 << 30


@pytest.mark.parametrize("source", ["org/model", "here"])
def test_code_that_comes_with_a_model_is_never_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """From a folder or the hub: said outright, so that no default of a later mlx-lm changes it."""
    asked: list[dict[str, Any]] = []

    def load(_: str, **options: Any) -> Any:
        asked.append(options)
        raise ValueError("far enough")

    monkeypatch.setattr(models, "mlx_load", load)
    with pytest.raises(ModelUnusable, match="far enough"):
        models.load_model("m", str(tmp_path) if source == "here" else source)
    (options,) = asked
    assert options["trust_remote_code"] is False
    for name in ("model_config", "tokenizer_config"):
        assert "trust_remote_code" not in (options.get(name) or {})


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """MLX's limits are the process's: they are put back."""
    memory, cache = mx.set_memory_limit(GIB), mx.set_cache_limit(GIB)
    yield
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)


def test_an_engine_goes_by_its_share(tmp_path: Path) -> None:
    """From the first reading on, also where it reads its host anew; a share told twice is taken once."""
    shape = {
        "chunk_tokens": 64,
        "prefill_rows": 2,
        "max_batch": 4,
        "gap_seconds": 1,
        "cards_folder": str(tmp_path),
    }
    said: list[Any] = []
    engine = Engine(said.append)
    engine.handle({"kind": "configure", "memory_budget": None, "cache_limit": None, **shape})
    for share in (64 << 20, GIB):
        engine.handle({"kind": "share", "share_bytes": share})
    engine.handle({"kind": "measure"})
    assert [each["kind"] for each in said] == ["host", "ready", "measured"]
    for each in said[1:]:
        assert (each["steady_bytes"], each["steady_source"]) == (64 << 20, "host_share")
        assert each["budget_bytes"] == each["limits_bytes"]["host_share"] == 64 << 20
    assert mx.set_memory_limit(GIB) == 64 << 20


@pytest.mark.parametrize(
    ("budget", "cache_limit", "expected"),
    [
        (GIB, None, GIB // 16),
        (64 * GIB, None, GIB),
        (GIB, 0, 0),
        (GIB, 5 << 20, 5 << 20),
    ],
    ids=["a sixteenth", "at most 1 GiB", "none", "as set"],
)
def test_mlx_is_given_the_limits_that_are_configured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, budget: int, cache_limit: int | None, expected: int
) -> None:
    """Its memory limit is the budget; its cache keeps what was set, or a share of that."""
    monkeypatch.setattr("workers.gauge.derive_budget", lambda *_, **__: (budget, "setting"))
    shape = {
        "chunk_tokens": 64,
        "prefill_rows": 2,
        "max_batch": 4,
        "gap_seconds": 1,
        "cards_folder": str(tmp_path),
    }
    said: list[Any] = []
    engine = Engine(said.append)
    engine.handle({"kind": "configure", "memory_budget": budget, "cache_limit": cache_limit, **shape})
    engine.handle({"kind": "share", "share_bytes": budget})
    assert [each["kind"] for each in said] == ["host", "ready"]
    assert said[1]["budget_bytes"] == budget
    assert mx.set_memory_limit(GIB) == budget
    assert mx.set_cache_limit(GIB) == expected
