"""Attempts: a late word changes nothing, a new one goes on where the last one was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from redis import Redis

from scheduler.errors import StoreUnavailable
from scheduler.events import Kind, read_events
from scheduler.holding import Held, Progress
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from tests.plans import WORST_CASE
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import kinds, nothing_waits, snapshot, told

Late = Callable[[PretendWorker, Held], list[Held]]


def write(worker: PretendWorker, *progress: Progress) -> list[Held]:
    """Write a step; those that are not held."""
    return worker.holding.write(progress)


def put_back(worker: PretendWorker, held: Held) -> list[Held]:
    """Shed a job; itself where it is not held."""
    return worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])


LATE: dict[str, Late] = {
    "text": lambda worker, held: write(worker, Progress(held, {"text": "late", "tokens": [9]})),
    "fields": lambda worker, held: write(worker, Progress(held, meta=replace(held.rec.meta, peak_bytes=9))),
    "a result": lambda worker, held: write(
        worker, Progress(held, outcome=Outcome(State.COMPLETED, {"text": "late"}))
    ),
    "a result that counts": lambda worker, held: write(
        worker, Progress(held, outcome=Outcome(State.COMPLETED, {"usage": {"completion_tokens": 9}}))
    ),
    "an error": lambda worker, held: write(worker, Progress(held, outcome=Outcome(State.FAILED, error={}))),
    "a cancellation": lambda worker, held: write(worker, Progress(held, outcome=Outcome(State.CANCELLED))),
    "a shedding": put_back,
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
@pytest.mark.parametrize("now", ["waiting again", "held by another", "held by itself again", "ended"])
def test_a_late_word_changes_nothing_and_is_not_heard(
    connection: Redis, submit: Submit, worker: PretendWorker, other: PretendWorker, late: Late, now: str
) -> None:
    """Whatever attempt 1 says after it was put back: no key changes, no stream is told, the worker learns it."""
    rec = submit()
    held = worker.claim(rec.id)
    worker.say(held, "hello ")
    stale = replace(held, tokens=list(held.tokens))
    put_back(worker, held)
    if now != "waiting again":
        again = (worker if "itself" in now else other).claim(rec.id)
        if now == "ended":
            other.complete(again, "hello world")
    before, lost = snapshot(connection), list[Held]()
    assert told(connection, lambda: lost.extend(late(worker, stale))) == []
    assert lost == [stale]
    assert snapshot(connection) == before


def test_one_lost_job_does_not_silence_a_step(
    connection: Redis, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """The others' text is written, and their streams lose nothing that the log does not show."""
    mine, gone = worker.claim(submit().id), worker.claim(submit().id)
    stale = replace(gone)
    put_back(worker, gone)
    other.claim(gone.rec.id)
    lost = write(worker, Progress(stale, {"text": "late"}), Progress(mine, {"text": "mine"}))
    assert lost == [stale]
    assert kinds(connection, mine.rec.id) == ["queued", "started", "delta"]
    assert kinds(connection, gone.rec.id) == ["queued", "started", "requeued", "started"]


def test_a_step_is_told_in_one_message(connection: Redis, submit: Submit, worker: PretendWorker) -> None:
    """Every job's news, with the numbers of their logs."""
    first, second = worker.claim(submit().id), worker.claim(submit().id)
    news = told(
        connection,
        lambda: write(
            worker,
            Progress(first, {"text": "a"}),
            Progress(second, {"text": "b"}, Outcome(State.COMPLETED, {})),
        ),
    )
    assert news == [
        (first.rec.id, 3, Kind.DELTA),
        (second.rec.id, 3, Kind.DELTA),
        (second.rec.id, 4, Kind.COMPLETED),
    ]


def test_what_could_not_be_written_is_not_told(
    connection: Redis, submit: Submit, worker: PretendWorker
) -> None:
    """A full server refuses a step: no stream hears of it, until it is sent again and is in the log."""
    going, ending = worker.claim(submit().id), worker.claim(submit().id)
    ended = Outcome(State.COMPLETED, {})
    swaps = worker.holding.prepare([Progress(going, {"text": "a"}), Progress(ending, outcome=ended)])

    def send() -> None:
        assert worker.holding.send(swaps, [going, ending]) == []

    def send_to_a_full_server() -> None:
        connection.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailable):
                send()
        finally:
            connection.config_set("maxmemory", 0)

    assert told(connection, send_to_a_full_server) == []
    assert kinds(connection, going.rec.id) == ["queued", "started"]
    assert told(connection, send) == [(going.rec.id, 3, Kind.DELTA), (ending.rec.id, 3, Kind.COMPLETED)]
    assert kinds(connection, going.rec.id) == ["queued", "started", "delta"]


def test_a_job_put_back_goes_first_and_on(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker, other: PretendWorker
) -> None:
    """To the front of its queue; the next attempt has its tokens and its log's next number."""
    first, second = submit(), submit()
    held = worker.claim(first.id)
    worker.say(held, "a", tokens=[5, 6])
    worker.say(held, "b", tokens=[7])
    put_back(worker, held)
    assert queue.rq_queue("standard").job_ids == [first.id, second.id]
    waiting = queue.fetch(first.id)
    assert (waiting.state, waiting.wire_state, waiting.lease) == (State.QUEUED, State.IN_PROGRESS, None)
    again = other.claim()
    assert (again.rec.id, again.tokens, again.lease.attempt) == (first.id, [5, 6, 7], 2)
    assert WORST_CASE.left(again) == again.rec.meta.max_tokens - 3
    other.say(again, "c", tokens=[8])
    other.complete(again, "abc")
    assert kinds(connection, first.id) == [
        "queued",
        "started",
        "delta",
        "delta",
        "requeued",
        "started",
        "delta",
        "completed",
    ]
    texts = [event.data["text"] for event in read_events(connection, first.id) if event.kind is Kind.DELTA]
    assert "".join(texts) == "abc"
    assert queue.fetch(first.id).meta.started_at == waiting.meta.started_at


def test_several_put_back_keep_their_order(queue: JobQueue, submit: Submit, worker: PretendWorker) -> None:
    """The youngest first, each to the front, so that they stand as they came."""
    jobs = [submit() for _ in range(4)]
    held = [worker.claim(rec.id) for rec in jobs]
    for each in sorted(held, key=lambda job: job.rec.id, reverse=True):
        put_back(worker, each)
    assert queue.rq_queue("standard").job_ids == [rec.id for rec in jobs]


def test_a_job_ended_behind_ones_back_ends_as_it_is(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Seen waiting, shed since: ending what was seen would lose its end from the log. It is refused, and tried anew."""
    seen = lifecycle.get(submit().id)
    held = worker.claim(seen.id)
    worker.say(held, "hello")
    put_back(worker, held)
    assert not lifecycle.end_waiting(seen, Outcome(State.CANCELLED))
    ended = lifecycle.cancel(seen.id)
    assert (ended.state, ended.meta.attempt) == (State.CANCELLED, 1)
    assert kinds(connection, seen.id) == ["queued", "started", "delta", "requeued", "cancelled"]


def test_a_step_sent_twice_is_written_once(
    connection: Redis, queue: JobQueue, submit: Submit, worker: PretendWorker
) -> None:
    """The answer was lost: the same swaps again change nothing, also where a job ended in them."""
    going, ending = worker.claim(submit().id), worker.claim(submit().id)
    progress = [
        Progress(going, {"text": "a", "tokens": [1]}),
        Progress(ending, {"text": "b"}, Outcome(State.COMPLETED, {"text": "b"})),
    ]
    swaps = worker.holding.prepare(progress)
    worker.holding.send(swaps, [going, ending])
    before = snapshot(connection)
    assert worker.holding.send(swaps, [going, ending]) == [ending]
    assert snapshot(connection) == before
    assert kinds(connection, ending.rec.id) == ["queued", "started", "delta", "completed"]
    assert nothing_waits(queue)
