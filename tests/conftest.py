"""What the suites share: one real Valkey, emptied for each test, and searched for leaks after it."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from redis import Redis

from scheduler.settings import Settings, load
from tests.key_leaks import leaks
from tests.valkey import valkey

MODEL = "test-model"


def pytest_configure() -> None:
    """A shell's background jobs ignore SIGINT, and so would every process that a test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of real Metal run where there is one."""
    if not mx.metal.is_available():
        for item in items:
            if item.get_closest_marker("metal"):
                item.add_marker(pytest.mark.skip(reason="there is no Metal here"))


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real server for the whole session; its folder's name is short, as a socket's address must be."""
    with tempfile.TemporaryDirectory(prefix="tg-") as folder, valkey(Path(folder)) as (url, _):
        yield url


@pytest.fixture
def connection(valkey_url: str) -> Iterator[Redis]:
    """A client of the emptied server. The test fails if it leaves a key that nobody will remove."""
    with Redis.from_url(valkey_url) as client:
        client.flushall()
        yield client
        assert leaks(client) == []


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> Settings:
    """Settings for that server, with one model listed."""
    return load(redis_url=valkey_url, data_dir=tmp_path, models=(MODEL,))
