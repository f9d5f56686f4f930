"""Job after job, each ended in its own way: neither the server nor the processes that move them keep anything of it."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from redis import Redis

from scheduler import shelf, spending
from scheduler.errors import ClientError
from scheduler.keyring import KeyBook
from scheduler.keys import new_key
from scheduler.lifecycle import Lifecycle
from scheduler.reasons import Reason
from scheduler.strays import mend
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit
from tests.store.looking import nothing_waits
from tests.waiting import Clock

ENDS = (
    "completes",
    "runs out",
    "fails",
    "is cancelled",
    "is cancelled while it runs",
    "expires",
    "is put back",
)


def live(lifecycle: Lifecycle, submit: Submit, worker: PretendWorker, clock: Clock, end: str) -> None:
    """One job, from its submission until it is deleted."""
    rec = submit(queue_timeout=5, metadata={"a": "b" * 50})
    if end == "is cancelled":
        lifecycle.cancel(rec.id)
    elif end == "expires":
        clock.now += 6
        assert lifecycle.end_overdue() == [rec.id]
    else:
        held = worker.claim(rec.id)
        worker.say(held, "some text")
        if end == "is put back":
            assert worker.queue.swap(worker.holding.put_back(held, Reason.MEMORY)) == [1]
            held = worker.claim(rec.id)
        if end == "is cancelled while it runs":
            lifecycle.cancel(rec.id)
        if end == "runs out":
            worker.run_out(held, "some text")
        elif end == "fails":
            worker.fail(held, ClientError("internal_error", "x" * 100))
        else:
            worker.complete(held, "some text")
    lifecycle.view(lifecycle.get(rec.id))
    lifecycle.page(status=("completed",), limit=5)
    lifecycle.delete(rec.id)


@pytest.mark.parametrize("jobs", [42])
def test_lives_of_jobs_leave_nothing_behind(
    connection: Redis,
    lifecycle: Lifecycle,
    submit: Submit,
    worker: PretendWorker,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
) -> None:
    """The server's keys are those that were there before, and the process holds no more than its caches' bounds."""
    worker.report(lease_seconds=3600.0)
    monkeypatch.setattr(shelf, "_ENVELOPES_KNOWN", 16)  # filled before it is measured

    def lives() -> tuple[int, set[bytes]]:
        for at in range(jobs):
            live(lifecycle, submit, worker, clock, ENDS[at % len(ENDS)])
        mend(lifecycle.queue)
        gc.collect()
        return tracemalloc.get_traced_memory()[0], set(connection.scan_iter(count=1000))

    tracemalloc.start()
    try:
        lives()
        before, keys = lives()
        after, same = lives()
    finally:
        tracemalloc.stop()
    assert same == keys and nothing_waits(lifecycle.queue)
    assert after - before < 300 * jobs, f"{(after - before) / jobs:.0f} bytes a job stay"


def test_keys_that_came_and_went_are_forgotten(
    connection: Redis, lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an API last saw of each key's tokens is kept of so many at most."""
    monkeypatch.setattr(spending, "_OWNERS_KNOWN", 3)
    book, seen = KeyBook(connection), lifecycle.spending
    for at in range(8):
        _, key = new_key(1.0, name=str(at), tokens_per_minute=1000)
        book.add(key)
        fee = spending.fee_of(key, 5, 5, 1.0)
        assert fee is not None
        seen.saw(fee, b"0")
        assert seen.left(key, 1.0) is not None
        book.remove(key.owner)
    assert len(seen._full_at) == 3
