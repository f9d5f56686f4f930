"""Listing: newest first, page by page."""

from __future__ import annotations

from itertools import pairwise

import pytest
from redis import Redis
from rq.job import Job

from scheduler.job import State
from scheduler.lifecycle import Lifecycle, Page
from scheduler.queue import JobQueue
from scheduler.record import Outcome
from scheduler.strays import mend
from tests.pretend_worker import PretendWorker
from tests.store.conftest import Submit


def ids(page: Page) -> list[str]:
    """A page's jobs."""
    return [rec.id for rec in page.records]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 6, 7, 8, 100])
def test_pages_add_up_to_every_job_once(lifecycle: Lifecycle, submit: Submit, limit: int) -> None:
    """Whatever their size; the last one has no cursor, also where it is full."""
    jobs = [submit().id for _ in range(7)]
    pages = [lifecycle.page(limit=limit)]
    while pages[-1].next_cursor:
        pages.append(lifecycle.page(limit=limit, after=pages[-1].next_cursor))
    assert [job for page in pages for job in ids(page)] == jobs[::-1]
    assert all(len(page.records) == limit for page, _ in pairwise(pages))
    assert len(pages) == -(-7 // limit)


def test_a_page_goes_on_where_the_last_one_ended(lifecycle: Lifecycle, submit: Submit) -> None:
    """Jobs that come or go meanwhile are neither repeated nor do they move the rest."""
    jobs = [submit().id for _ in range(4)]
    first = lifecycle.page(limit=2)
    submit()
    lifecycle.connection.delete(Job.key_for(jobs[2]))
    assert ids(lifecycle.page(limit=2, after=first.next_cursor)) == [jobs[1], jobs[0]]
    mend(lifecycle.queue)


def test_pages_are_filtered(lifecycle: Lifecycle, submit: Submit, worker: PretendWorker) -> None:
    """By status as clients see it, by model, by class; filters are taken together."""
    waits, runs, done = submit(), submit(priority="batch"), submit()
    shed = submit(priority="interactive")
    worker.claim(runs.id)
    worker.complete(worker.claim(done.id), "a")
    held = worker.claim(shed.id)
    worker.say(held, "a")
    worker.holding.send([worker.holding.put_back(held, "memory")], [held])
    assert ids(lifecycle.page(status="queued")) == [waits.id]
    assert ids(lifecycle.page(status="in_progress")) == [shed.id, runs.id]
    assert ids(lifecycle.page(status="completed")) == [done.id]
    assert ids(lifecycle.page(priority="batch")) == [runs.id]
    assert ids(lifecycle.page(priority="batch", status="queued")) == []
    assert len(lifecycle.page(model=waits.meta.model).records) == 4
    assert ids(lifecycle.page(model="another")) == []


def test_a_filter_finds_what_lies_far_back(lifecycle: Lifecycle, submit: Submit) -> None:
    """Behind hundreds of others, as the scan goes on; the cursor then leads past it."""
    old = [submit(priority="batch").id for _ in range(2)]
    for _ in range(420):
        submit()
    page = lifecycle.page(limit=1, priority="batch")
    assert ids(page) == [old[1]]
    assert page.next_cursor == old[1]
    last = lifecycle.page(limit=1, priority="batch", after=page.next_cursor)
    assert (ids(last), last.next_cursor) == ([old[0]], None)


@pytest.mark.parametrize("after", ["0", "zzz", "job_", "(", "[", "+", "-", "é🌊", "\x00"])
def test_a_cursor_that_nobody_gave_is_only_a_place(lifecycle: Lifecycle, submit: Submit, after: str) -> None:
    """It is compared as text: before every job, or behind it; nothing else happens."""
    rec = submit()
    page = lifecycle.page(after=after)
    assert ids(page) == ([rec.id] if after > rec.id else [])
    assert page.next_cursor is None


def test_nothing_is_an_empty_page(lifecycle: Lifecycle) -> None:
    """Without jobs, with a cursor and with filters."""
    assert lifecycle.page() == lifecycle.page(after="job_", status="queued") == Page((), None)


def test_an_ended_job_is_listed_until_it_lapses(
    connection: Redis, lifecycle: Lifecycle, submit: Submit
) -> None:
    """Then its entry goes, and its log with it."""
    rec = submit()
    lifecycle.end_waiting(lifecycle.get(rec.id), Outcome(State.CANCELLED))
    assert ids(lifecycle.page()) == [rec.id]
    connection.delete(Job.key_for(rec.id))
    assert ids(lifecycle.page()) == []
    mend(lifecycle.queue)
    assert not connection.exists("tidegate:jobs", f"tidegate:events:{rec.id}")


def test_a_list_reads_no_requests(
    connection: Redis,
    lifecycle: Lifecycle,
    submit: Submit,
    worker: PretendWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They may be megabytes; what a list tells of a job, its metadata and its result, lies elsewhere."""
    jobs = [submit(metadata={"für": str(number)}).id for number in range(3)]
    worker.complete(worker.claim(jobs[1]), "done")
    whole = [lifecycle.get(job).view() for job in reversed(jobs)]
    for job in jobs:
        connection.hdel(Job.key_for(job), "data")
    assert [rec.view() for rec in lifecycle.page().records] == whole
    assert [rec.view() for rec in lifecycle.page(status="completed").records] == [whole[1]]
    assert whole[1]["result"]["text"] == "done"


def test_a_list_without_filters_reads_no_more_than_it_shows(
    lifecycle: Lifecycle, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more, to know whether there are more."""
    for _ in range(9):
        submit()
    read: list[int] = []
    headings = JobQueue.headings
    monkeypatch.setattr(
        JobQueue, "headings", lambda queue, found: read.append(len(found)) or headings(queue, found)
    )
    lifecycle.page(limit=3)
    assert read == [4]
