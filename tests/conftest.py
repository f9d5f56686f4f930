"""What the suites share: one real Valkey, emptied for each test, and searched for leaks after it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hypothesis
import mlx.core as mx
import pytest
from redis import Redis

from scheduler.settings import Settings, load
from tests.key_leaks import leaks
from tests.valkey import valkey

MODEL = "test-model"

hypothesis.settings.register_profile(
    "patient", deadline=None
)  # how long an example takes is the machine's to say
hypothesis.settings.load_profile("patient")

_WITH_ENGINES: Final = {"integration", "e2e", "browser"}


def pytest_configure() -> None:
    """What the tests' own processes need of this one, for they inherit it.

    A shell's background jobs ignore SIGINT, and so would every process that a test starts and interrupts. And the
    command tells what to type by its name alone where that is on the path.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with engines, which measure what they take, run one at a time; those of real Metal where there is one."""
    for item in items:
        if _WITH_ENGINES & {*item.path.parts}:
            item.add_marker(pytest.mark.xdist_group("engines"))
    if not mx.metal.is_available():
        for item in items:
            if item.get_closest_marker("metal"):
                item.add_marker(pytest.mark.skip(reason="there is no Metal here"))


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what is measured of small models is kept: each is measured once."""
    return tmp_path_factory.mktemp("cards")


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real server for the whole session; its folder's name is short, as a socket's address must be."""
    with tempfile.TemporaryDirectory(prefix="tg-") as folder, valkey(Path(folder)) as (url, _):
        yield url


@pytest.fixture
def connection(valkey_url: str) -> Iterator[Redis]:
    """A client of the emptied server, which is emptied again. A test fails if it leaves a key that nobody removes."""
    with Redis.from_url(valkey_url) as client:
        client.flushall()
        try:
            yield client
            assert leaks(client) == []
        finally:
            client.flushall()


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> Settings:
    """Settings for that server, with one model listed."""
    return load(redis_url=valkey_url, data_dir=tmp_path, models=(MODEL,))
