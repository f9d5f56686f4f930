"""Batches on the server: whose they are, how many there may be, and who feeds them."""

from __future__ import annotations

import pytest
from redis import Redis

from scheduler.batches import ACTIVE_KEY, FEEDER_KEY, Batches
from scheduler.errors import ClientError
from scheduler.owner import owner_of
from tests.batching import CHAT, Bench, line
from tests.waiting import Clock

ANN, BOB = owner_of("Bearer ann"), owner_of("Bearer bob")


def test_a_batch_that_lapsed_is_forgotten(connection: Redis, bench: Bench) -> None:
    """And one that others spoiled."""
    batches = [bench.begin(line(0)), bench.begin(line(0))]
    connection.delete(f"tidegate:batch:{batches[0].id}")
    connection.hset(f"tidegate:batch:{batches[1].id}", "status", "happy")
    for batch in batches:
        assert not bench.rounds.step(batch.id, 1, bench.clock())
    assert connection.exists(ACTIVE_KEY) == 0


def test_a_batch_is_its_owners_alone(bench: Bench, clock: Clock) -> None:
    """In lists and by its id; lists are newest first, in pages."""
    first = bench.begin(line(0), owner=ANN)
    clock.now += 1
    second = bench.begin(line(0), owner=ANN)
    third = bench.begin(line(0), owner=BOB)
    for batch_id in (third.id, "batch_" + "0" * 26, "x" * 999):
        with pytest.raises(ClientError) as caught:
            bench.batches.get(batch_id, ANN)
        assert caught.value.code == "not_found"
    assert bench.batches.page(ANN, 9) == ([bench.now(second), bench.now(first)], False)
    assert bench.batches.page(ANN, 1) == ([bench.now(second)], True)
    assert bench.batches.page(ANN, 1, second.id) == ([bench.now(first)], False)


def test_a_batch_needs_its_file(bench: Bench) -> None:
    """Deleted a moment before, it is not found, and nothing is left of the batch."""
    file = bench.upload(b"x")
    bench.files.delete(file)
    with pytest.raises(ClientError) as caught:
        bench.batches.create("", CHAT, file, None, 7200)
    assert (caught.value.code, caught.value.param) == ("not_found", "input_file_id")
    assert bench.batches.active() == []


def test_batches_that_have_not_ended_are_bench_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, to come again."""
    monkeypatch.setattr("scheduler.batches.ACTIVE_MOST", 2)
    bench.begin(line(0))
    done = bench.begin(b"x")
    with pytest.raises(ClientError) as caught:
        bench.begin(line(0))
    assert (caught.value.code, caught.value.retry_after) == ("queue_full", 120)
    bench.step(done)
    bench.begin(line(0))


def test_one_key_takes_a_part_of_the_batches_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """429, to come again when one of its own ended; others' begin. Those without a key have no such bound."""
    monkeypatch.setattr("scheduler.batches.OWNER_ACTIVE_MOST", 2)
    ann, bob = "0" * 16, "1" * 16
    bench.begin(line(0), owner=ann)
    done = bench.begin(b"x", owner=ann)
    with pytest.raises(ClientError) as caught:
        bench.begin(line(0), owner=ann)
    assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 120)
    bench.begin(line(0), owner=bob)
    for _ in range(3):
        bench.begin(line(0))
    bench.step(done)
    bench.begin(line(0), owner=ann)


def test_one_process_feeds_at_a_time(connection: Redis, bench: Bench) -> None:
    """A lease that its holder renews; it can be given up, and lapses."""
    batches: Batches = bench.batches
    assert batches.lead("a", 5)
    assert not batches.lead("b", 5)
    assert batches.lead("a", 60)
    assert connection.pttl(FEEDER_KEY) > 5000  # type: ignore[operator]
    batches.resign("b")
    assert not batches.lead("b", 5)
    batches.resign("a")
    assert batches.lead("b", 5)
