"""The store over the test's Valkey: the verbs of clients, two workers, and a clock that tests set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from scheduler.lifecycle import Lifecycle
from scheduler.queue import JobQueue
from scheduler.record import JobRecord
from scheduler.request import read_request
from scheduler.settings import Settings, load
from tests.batching import Bench
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import Clock

Submit = Callable[..., JobRecord]
BenchOf = Callable[..., Bench]


@pytest.fixture
def clock() -> Clock:
    """The clock of every verb that clients use here."""
    return Clock()


@pytest.fixture
def lifecycle(connection: Redis, settings: Settings, clock: Clock) -> Lifecycle:
    """The clients' verbs."""
    return Lifecycle(connection, settings, clock)


@pytest.fixture
def queue(lifecycle: Lifecycle) -> JobQueue:
    """The store."""
    return lifecycle.queue


@pytest.fixture
def submit(lifecycle: Lifecycle, clock: Clock) -> Submit:
    """Submits a job, a second after the one before, so that ids have an order."""

    def submitted(prompt: str = "hi", **fields: Any) -> JobRecord:
        clock.now += 1.0
        return lifecycle.submit(read_request({"model": MODEL, "prompt": prompt, "max_tokens": 10} | fields))

    return submitted


@pytest.fixture
def worker(connection: Redis) -> PretendWorker:
    """A live worker."""
    made = PretendWorker(connection, "one")
    made.report()
    return made


@pytest.fixture
def other(connection: Redis) -> PretendWorker:
    """Another."""
    made = PretendWorker(connection, "two")
    made.report()
    return made


@pytest.fixture
def bench(connection: Redis, settings: Settings, clock: Clock) -> Bench:
    """Everything that runs batches."""
    return Bench(connection, settings, clock)


@pytest.fixture
def bench_of(connection: Redis, valkey_url: str, clock: Clock) -> BenchOf:
    """The same under other bounds."""

    def made(**fields: Any) -> Bench:
        return Bench(connection, load(redis_url=valkey_url, models=(MODEL,), **fields), clock)

    return made
