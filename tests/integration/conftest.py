"""What the tests with a real engine share: tiny models, written once, and a place for workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.random_models import write_random_llama
from tests.key_leaks import leaks
from tests.running import Site, a_site


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama that never stops by itself; half a KiB of cache a token, 4,096 positions."""
    return write_random_llama(tmp_path_factory.mktemp("tiny"), never_stops=True)


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with a large cache: 16 KiB a token."""
    return write_random_llama(
        tmp_path_factory.mktemp("wide"),
        layers=4,
        hidden=64,
        heads=8,
        kv_heads=8,
        head_dim=64,
        never_stops=True,
    )


@pytest.fixture(scope="module")
def site(tiny_model: Path, cards: Path) -> Iterator[Site]:
    """A server and a folder of the module's own; once all its workers are gone, nothing leaked."""
    with a_site({"tiny": tiny_model}, cards=cards) as made:
        yield made
        assert leaks(made.connection) == []
