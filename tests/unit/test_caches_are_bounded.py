"""What a worker remembers of jobs comes to rest: asked of ever new ones, its caches take so many bytes and no more."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from itertools import count

import pytest
from redis import Redis

from scheduler import footprint, shelf
from scheduler.foresight import Row
from tests.cards import PLAIN

NUMBERS = count(100_000)
BATCH = 32
"""What `TIDEGATE_MAX_BATCH` is where nobody sets it."""


def batches() -> None:
    """One batch more, which another job joins; each of its jobs differs from every other, as running ones do."""
    rows = [Row(next(NUMBERS), next(NUMBERS), next(NUMBERS) // 2) for _ in range(BATCH)]
    footprint.joined_bytes(PLAIN, rows[0], rows[1:], 512, 8)


def alone() -> None:
    """One job more, judged alone."""
    footprint.alone_bytes(PLAIN, Row(next(NUMBERS), next(NUMBERS)), 512)


@pytest.fixture
def envelopes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """One job more, whose request was looked at."""
    monkeypatch.setattr(shelf, "read_envelope", lambda *_: {})
    reads = shelf.Shelf(Redis())
    return lambda: reads._keep_request(f"job_{next(NUMBERS):026}", None)


def after(ask: Callable[[], None], times: int) -> int:
    """Bytes that are held after something new was asked so many times more."""
    for _ in range(times):
        ask()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize(
    ("what", "known", "most_bytes"),
    [
        ("batches", footprint._BATCHES_KNOWN, 4 << 20),
        ("alone", footprint._ALONE_KNOWN, 3 << 20),
        ("envelopes", shelf._ENVELOPES_KNOWN, 4 << 20),
    ],
)
def test_a_cache_stops_at_its_bound(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    known: int,
    most_bytes: int,
) -> None:
    """Full, it takes no more than this; more of them leave it as large as it is."""
    ask: Callable[[], None] = request.getfixturevalue(what) if what == "envelopes" else globals()[what]
    monkeypatch.setattr(
        footprint, "replay", lambda *_, **__: []
    )  # what is foreseen takes long, and is no matter here
    for cache in (footprint._peak, footprint._joined, footprint._alone):
        cache.cache_clear()
    tracemalloc.start()
    try:
        empty = after(ask, 1)
        full = after(ask, known + known // 2)
        later = after(ask, known // 2)
    finally:
        tracemalloc.stop()
        for cache in (footprint._peak, footprint._joined, footprint._alone):
            cache.cache_clear()  # it holds what is not so
    assert full - empty < most_bytes
    assert later - full < (full - empty) // 20
