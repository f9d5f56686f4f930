"""A batch's lines are jobs of its key: they count against its quotas, and leave half of them to who waits for answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from scheduler.batch import Batch, BatchState
from scheduler.keyring import KeyBook
from scheduler.keys import Key
from scheduler.lifecycle import Lifecycle
from scheduler.request import read_request
from tests.batching import Bench, answer_all, line
from tests.conftest import MODEL
from tests.keys import make_key
from tests.pretend_worker import PretendWorker
from tests.store.conftest import BenchOf
from tests.waiting import Clock

MAX_TOKENS = 52
CHARGE = 100
"""What a line here costs: the answer, and 48 for a prompt with what a chat puts around it."""


def lines(count: int, max_tokens: int = MAX_TOKENS, **fields: Any) -> Iterator[dict[str, Any]]:
    """Lines that ask for so many tokens each."""
    for number in range(count):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": max_tokens}
        yield line(number, body=body | fields)


def spent(lifecycle: Lifecycle, key: Key, clock: Clock) -> int:
    """What a key has spent of this minute's tokens."""
    (name,) = lifecycle.connection.scan_iter(f"tidegate:allowance:{key.owner}:*")
    full_at: Any = lifecycle.connection.zscore(name, "full")
    return int(full_at) - round(clock.now * 1e6) * (key.tokens_per_minute or 0) // 60_000_000


def run(bench: Bench, worker: PretendWorker, batch: Batch) -> int:
    """Let a batch take what it may, and answer it; how many lines that were."""
    bench.step(batch)
    return len(answer_all(worker))


def test_lines_are_charged_to_their_key(
    bench: Bench, connection: Redis, clock: Clock, worker: PretendWorker
) -> None:
    """Each once, prompt and answer, by the swap that takes it; the rest waits until the tokens have flowed."""
    _, key = make_key(connection, tokens_per_minute=4 * CHARGE)
    batch = bench.begin(*lines(6), owner=key.owner)
    bench.step(batch)
    assert run(bench, worker, batch) == 2
    assert run(bench, worker, batch) == 0
    assert spent(bench.lifecycle, key, clock) == 2 * CHARGE
    clock.now += 15
    assert run(bench, worker, batch) == 1
    for _ in range(8):
        clock.now += 15
        run(bench, worker, batch)
    assert bench.until(batch, BatchState.COMPLETED).completed == 6


def test_half_of_a_minute_is_for_who_waits(
    bench: Bench, connection: Redis, clock: Clock, worker: PretendWorker
) -> None:
    """However long a batch is, its key's other jobs come in."""
    _, key = make_key(connection, tokens_per_minute=4 * CHARGE)
    batch = bench.begin(*lines(50), owner=key.owner)
    asked = read_request({"model": MODEL, "prompt": "a", "max_tokens": MAX_TOKENS})
    bench.step(batch)
    for _ in range(5):
        run(bench, worker, batch)
        for _ in range(2):
            worker.complete(worker.claim(bench.lifecycle.submit(asked, key.owner).id), "a")
        clock.now += 60


def test_a_line_of_more_than_half_a_minute_waits_for_a_whole_one(
    bench: Bench, connection: Redis, clock: Clock, worker: PretendWorker
) -> None:
    """It comes in when the bucket is full."""
    _, key = make_key(connection, tokens_per_minute=4 * CHARGE)
    batch = bench.begin(*lines(2, max_tokens=240), owner=key.owner)
    bench.step(batch)
    assert run(bench, worker, batch) == 1
    clock.now += 30
    assert run(bench, worker, batch) == 0
    clock.now += 30
    assert run(bench, worker, batch) == 1


@pytest.mark.parametrize("fields", [{"max_tokens": 5 * CHARGE}, {"n": 5}])
def test_a_line_of_more_than_a_minute_fails_by_itself(
    bench: Bench, connection: Redis, worker: PretendWorker, fields: dict[str, Any]
) -> None:
    """403 in the error file, whether one answer is too long or there are too many; the others are answered."""
    _, key = make_key(connection, tokens_per_minute=4 * CHARGE)
    (large,) = lines(1, **({"max_tokens": MAX_TOKENS} | fields))
    batch = bench.begin(large | {"custom_id": "large"}, *lines(1), owner=key.owner)
    bench.step(batch)
    assert run(bench, worker, batch) == 1
    ended = bench.until(batch, BatchState.COMPLETED)
    assert bench.counts(batch) == (2, 1, 1)
    (entry,) = bench.written(ended.error_file, key.owner)
    assert (entry["custom_id"], entry["response"]["status_code"]) == ("large", 403)
    assert entry["response"]["body"]["error"]["code"] == "forbidden"


@pytest.mark.parametrize(
    ("limits", "param"), [({"models": ("x",)}, "model"), ({"priorities": ("standard",)}, "priority")]
)
def test_a_line_may_use_what_its_key_may(
    bench: Bench, connection: Redis, limits: dict[str, Any], param: str
) -> None:
    """Whatever the key could do when the batch began."""
    _, key = make_key(connection)
    batch = bench.begin(*lines(2), owner=key.owner)
    KeyBook(connection).change(key.changed(**limits))
    ended = bench.until(batch, BatchState.COMPLETED)
    assert bench.counts(batch) == (2, 0, 2)
    for entry in bench.written(ended.error_file, key.owner):
        assert entry["response"]["status_code"] == 403
        assert entry["response"]["body"]["error"]["param"] == param


def test_a_removed_keys_batch_runs_no_more(bench: Bench, connection: Redis) -> None:
    """Its lines are told that the key is gone, and the batch ends."""
    _, key = make_key(connection)
    make_key(connection)
    batch = bench.begin(*lines(2), owner=key.owner)
    bench.step(batch)
    KeyBook(connection).remove(key.owner)
    bench.lifecycle.keys._known = None  # a second later
    bench.until(batch, BatchState.COMPLETED)
    assert bench.counts(batch) == (2, 0, 2)
    assert bench.lifecycle.queue.waiting() == (0, 0)


def test_lines_count_against_the_jobs_that_may_wait(
    bench: Bench, connection: Redis, worker: PretendWorker
) -> None:
    """Half of them: a key's other jobs have room beside its batch."""
    _, key = make_key(connection, queued_jobs=4)
    batch = bench.begin(*lines(9), owner=key.owner)
    bench.step(batch)
    bench.step(batch)
    assert bench.lifecycle.queue.waiting()[0] == 2
    asked = read_request({"model": MODEL, "prompt": "a", "max_tokens": 5})
    for _ in range(2):
        bench.lifecycle.submit(asked, key.owner)
    bench.step(batch)
    assert bench.lifecycle.queue.owned(key.owner)[0] == 4


def test_a_line_of_more_jobs_than_may_wait_fails_by_itself(bench: Bench, connection: Redis) -> None:
    """403; one of just as many comes in when nothing else of its key waits."""
    _, key = make_key(connection, queued_jobs=3)
    batch = bench.begin(
        *lines(1, n=4), *({**each, "custom_id": "b"} for each in lines(1, n=3)), owner=key.owner
    )
    bench.step(batch)
    bench.step(batch)
    assert bench.counts(batch) == (2, 0, 1)
    assert bench.lifecycle.queue.owned(key.owner)[0] == 3


def test_the_smaller_of_two_quotas_counts(bench_of: BenchOf, connection: Redis) -> None:
    """The operator's for every key, or the key's own; a key that may have one waiting has one line waiting."""
    for quota, most, waiting in ((20, 6, 3), (4, 20, 2), (1, 20, 1)):
        connection.flushall()
        bench = bench_of(max_queued_jobs_per_key=most)
        _, key = make_key(connection, queued_jobs=quota)
        batch = bench.begin(*lines(12), owner=key.owner)
        bench.step(batch)
        bench.step(batch)
        assert bench.lifecycle.queue.waiting()[0] == waiting


def test_batches_of_one_key_spend_no_token_twice(bench: Bench, connection: Redis, clock: Clock) -> None:
    """Two feeders at once, while another has the lease late: the bucket is looked at where it is emptied."""
    _, key = make_key(connection, tokens_per_minute=4 * CHARGE)
    other = Bench(connection, bench.lifecycle.settings, clock)
    batches = [bench.begin(*lines(5), owner=key.owner) for _ in range(2)]
    for each in batches:
        bench.step(each)
    bench.step(batches[0])
    other.step(batches[1])
    assert spent(bench.lifecycle, key, clock) <= 2 * CHARGE
    assert bench.lifecycle.queue.waiting()[0] == 2
