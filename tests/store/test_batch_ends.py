"""How a batch ends before its lines are done: cancelled, or its window closed."""

from __future__ import annotations

from scheduler.batch import BatchState
from scheduler.batch_rounds import STOP_SECONDS
from scheduler.job import State
from tests.batching import Bench, line
from tests.pretend_worker import PretendWorker
from tests.waiting import Clock


def test_a_cancelled_batch_stops_its_lines(bench: Bench, worker: PretendWorker) -> None:
    """What was answered is written; what waited, ran or never came is told as cancelled."""
    batch = bench.begin(*(line(number) for number in range(4)), b"bad")
    bench.step(batch)
    bench.step(batch, most_running=3)
    worker.complete(worker.claim(), "done")
    held = worker.claim()
    batch = bench.batches.cancel(bench.now(batch))
    assert batch.status is BatchState.CANCELLING
    assert bench.batches.cancel(batch).status is BatchState.CANCELLING
    bench.step(batch)
    assert bench.lifecycle.queue.waiting()[0] == 0
    assert bench.step(batch).status is BatchState.CANCELLING
    assert worker.cancel_wanted(held)
    worker.complete(held, "was quicker")
    batch = bench.until(batch, BatchState.CANCELLED)
    assert [each["custom_id"] for each in bench.written(batch.output_file)] == ["r0", "r1"]
    told = [
        (each["custom_id"], (each["error"] or {}).get("code")) for each in bench.written(batch.error_file)
    ]
    assert told == [("r2", "batch_cancelled"), ("r3", "batch_cancelled"), (None, None)]
    assert bench.counts(batch) == (5, 2, 3)
    assert bench.batches.cancel(batch) == batch


def test_a_batch_is_cancelled_before_its_lines_are_known(bench: Bench) -> None:
    """It has none, and writes nothing."""
    batch = bench.batches.cancel(bench.begin(line(0)))
    batch = bench.step(batch)
    assert (batch.status, bench.counts(batch)) == (BatchState.CANCELLED, (0, 0, 0))
    assert (batch.output_file, batch.error_file) == (None, None)


def test_a_batch_expires(bench: Bench, worker: PretendWorker, clock: Clock) -> None:
    """After its window what runs is stopped, and each line that lacks is told as expired."""
    batch = bench.begin(*(line(number) for number in range(4)))
    bench.step(batch)
    bench.step(batch, most_running=2)
    worker.complete(worker.claim(), "done")
    clock.now = batch.expires_at - 0.001
    assert bench.step(batch, most_running=2).status is BatchState.IN_PROGRESS
    clock.now = batch.expires_at
    assert bench.step(batch).status is BatchState.FINALIZING
    batch = bench.until(batch, BatchState.EXPIRED)
    assert bench.lifecycle.queue.waiting()[0] == 0
    assert [each["custom_id"] for each in bench.written(batch.output_file)] == ["r0"]
    told = [(each["custom_id"], each["error"]["code"]) for each in bench.written(batch.error_file)]
    assert told == [(f"r{number}", "batch_expired") for number in (1, 2, 3)]
    assert (bench.counts(batch), batch.view()["expired_at"]) == ((4, 1, 3), int(clock.now))


def test_a_worker_that_does_not_let_go_is_not_waited_for_for_ever(
    bench: Bench, worker: PretendWorker, clock: Clock
) -> None:
    """Ten minutes; then its line is told as cancelled, and what it still says is nobody's."""
    batch = bench.begin(line(0))
    bench.step(batch)
    bench.step(batch)
    held = worker.claim()
    batch = bench.batches.cancel(bench.now(batch))
    clock.now += STOP_SECONDS - 1
    assert bench.step(batch).status is BatchState.CANCELLING
    clock.now += 1
    batch = bench.step(batch)
    assert (batch.status, bench.counts(batch)) == (BatchState.CANCELLED, (1, 0, 1))
    worker.complete(held, "late")
    assert bench.lifecycle.get(held.rec.id).state is State.COMPLETED
    assert bench.counts(batch) == (1, 0, 1)
