"""How many lines of a batch wait at a time, and what they leave to others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis

from api.batch_endpoints import ENDPOINTS
from scheduler import batch_rounds
from scheduler.batch import BatchState
from scheduler.batch_rounds import Endpoint
from scheduler.errors import ClientError
from scheduler.fleet import worker_key
from scheduler.owner import owner_of
from scheduler.record import JobRecord
from scheduler.request import JobRequest
from scheduler.settings import load
from tests.batching import CHAT, Bench, answer_all, line
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.store.conftest import BenchOf
from tests.waiting import Clock

ANN = owner_of("Bearer ann")


def test_lines_are_fed_as_there_is_room(bench: Bench, worker: PretendWorker) -> None:
    """So many at a time; those that ended make room for the next."""
    batch = bench.begin(*(line(number) for number in range(7)), b"", line(8))
    bench.step(batch)
    bench.step(batch, most_running=3)
    bench.step(batch, most_running=3)
    assert bench.lifecycle.queue.waiting()[0] == 3
    worker.complete(worker.claim(), "x")
    assert bench.step(batch, most_running=3).completed == 1
    assert bench.lifecycle.queue.waiting()[0] == 3
    for _ in range(4):
        answer_all(worker)
        batch = bench.step(batch, most_running=3)
    assert (bench.until(batch, BatchState.COMPLETED).completed, batch.total) == (8, 8)


def test_a_batch_leaves_half_of_the_queue_to_others(bench_of: BenchOf) -> None:
    """In jobs, and in tokens; those who came while there was no room at all come first."""
    bench = bench_of(max_queued_jobs=6)
    batch = bench.begin(*(line(number) for number in range(7)))
    bench.step(batch)
    bench.step(batch)
    assert bench.lifecycle.queue.waiting()[0] == 3
    bench = bench_of(max_queued_tokens=4000)
    bench.lifecycle.connection.flushall()
    batch = bench.begin(*(line(number) for number in range(7)))
    bench.step(batch)
    bench.step(batch)
    jobs, tokens = bench.lifecycle.queue.waiting()
    assert 1 <= jobs < 7
    assert tokens <= 2000


def test_a_line_of_more_work_than_its_half_comes_in_alone(bench_of: BenchOf) -> None:
    """When nothing else waits; no line is left lying for ever."""
    bench = bench_of(max_queued_tokens=800)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 700}
    batch = bench.begin(line(0, body=body), line(1, body=body))
    bench.step(batch)
    bench.step(batch)
    assert bench.lifecycle.queue.waiting()[0] == 1


def test_without_a_worker_lines_wait_where_jobs_may_not(
    bench_of: BenchOf, worker: PretendWorker, connection: Redis, clock: Clock
) -> None:
    """What a retry cures is no line's fault: it is fed later."""
    bench = bench_of(queue_without_worker=False)
    connection.delete(worker_key("one"))
    batch = bench.begin(line(0))
    bench.step(batch)
    assert bench.counts(bench.step(batch)) == (1, 0, 0)
    worker.report()
    clock.now += 1
    bench.step(batch)
    assert answer_all(worker) == ["say 0"]


def doubled(body: dict[str, Any]) -> tuple[list[JobRequest], dict[str, Any]]:
    """A route that makes two jobs of a line."""
    requests, note = ENDPOINTS[CHAT].ask(body)
    return [*requests, *requests], {**note, "choices": 2}


@pytest.fixture
def twofold(connection: Redis, valkey_url: str, clock: Clock) -> BenchOf:
    """Batches over a route of which each line makes two jobs."""

    def answer(records: Sequence[JobRecord]) -> dict[str, Any]:
        return {"said": [ENDPOINTS[CHAT].answer([rec]) for rec in records], "usage": {"input_tokens": 5}}

    def made(**fields: Any) -> Bench:
        settings = load(redis_url=valkey_url, models=(MODEL,), **fields)
        return Bench(connection, settings, clock, {CHAT: Endpoint(doubled, answer)})

    return made


def test_a_line_may_be_several_jobs(twofold: BenchOf, worker: PretendWorker) -> None:
    """All come in at once, it has ended when they all have, and one that fails fails it."""
    bench = twofold()
    batch = bench.begin(line(0), line(1))
    bench.step(batch)
    bench.step(batch)
    jobs = bench.jobs(batch)
    assert len(set(jobs)) == bench.lifecycle.queue.waiting()[0] == 4
    assert bench.lifecycle.get(jobs[1]).envelope["note"]["choices"] == 2
    worker.complete(worker.claim(jobs[0]), "one")
    assert bench.counts(bench.step(batch)) == (2, 0, 0)
    worker.complete(worker.claim(jobs[1]), "two")
    worker.complete(worker.claim(jobs[2]), "three")
    worker.fail(worker.claim(jobs[3]), ClientError("worker_killed", "killed"))
    batch = bench.until(batch, BatchState.COMPLETED)
    assert (bench.counts(batch), batch.input_tokens) == ((2, 1, 1), 5)
    (told,) = bench.written(batch.output_file)
    assert len(told["response"]["body"]["said"]) == 2
    assert bench.written(batch.error_file)[0]["response"]["status_code"] == 500


def test_several_jobs_of_a_line_come_in_together_or_not(twofold: BenchOf) -> None:
    """Half of the queue has room for three: one line of two; where there is room for one, two come in alone."""
    for most, come in ((6, 2), (2, 2)):
        bench = twofold(max_queued_jobs=most)
        bench.lifecycle.connection.flushall()
        batch = bench.begin(line(0), line(1))
        for _ in range(3):
            bench.step(batch)
        assert bench.lifecycle.queue.waiting()[0] == come


def test_an_owners_own_bounds_hold_for_batches(bench_of: BenchOf) -> None:
    """Half of them, as of the whole queue: the other half is for the jobs that it submits by hand."""
    bench = bench_of(max_queued_jobs_per_key=4)
    batch = bench.begin(*(line(number) for number in range(5)), owner=ANN)
    bench.step(batch)
    bench.step(batch)
    assert bench.lifecycle.queue.owned(ANN)[0] == 2


def test_what_is_known_of_lines_is_passed_over_once(bench: Bench, worker: PretendWorker) -> None:
    """Lines that cannot run, or have another's name, are not read again each round while one before them runs."""
    batch = bench.begin(line(0), line(0), b"not json", line(0))
    bench.step(batch)
    batch = bench.step(batch)
    size_bytes = bench.files.get(batch.input_file_id, "").size_bytes
    assert (batch.next_line, batch.offset, len(bench.jobs(batch))) == (5, size_bytes, 1)
    assert answer_all(worker) == ["say 0"]
    batch = bench.until(batch, BatchState.COMPLETED)
    assert (bench.counts(batch), len(bench.written(batch.error_file))) == ((4, 1, 3), 3)


def test_a_batch_is_fed_for_a_while_and_then_the_others(
    bench: Bench, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long each of its lines takes; it goes on with the next round, and is not taken for drained."""
    monkeypatch.setattr(batch_rounds, "FEED_SECONDS", 0.0)
    batch = bench.begin(line(0), line(0), line(1))
    bench.step(batch)
    assert [(bench.step(batch).next_line, len(bench.jobs(batch))) for _ in range(3)] == [
        (2, 1),
        (3, 1),
        (4, 2),
    ]
    assert answer_all(worker) == ["say 0", "say 1"]
    assert bench.counts(bench.until(batch, BatchState.COMPLETED)) == (3, 2, 1)
