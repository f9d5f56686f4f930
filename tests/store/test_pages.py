"""Listing: newest first, page by page."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
from redis import Redis
from rq.job import Job

from scheduler.job import PRIORITIES, State
from scheduler.lifecycle import Lifecycle
from scheduler.listing import Page, Wishes
from scheduler.outcome import Outcome
from scheduler.queue import JobQueue
from scheduler.reasons import Reason
from scheduler.strays import mend
from tests.conftest import MODEL
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
    worker.holding.send([worker.holding.put_back(held, Reason.MEMORY)], [held])
    assert ids(lifecycle.page(status=("queued",))) == [waits.id]
    assert ids(lifecycle.page(status=("in_progress",))) == [shed.id, runs.id]
    assert ids(lifecycle.page(status=("completed",))) == [done.id]
    assert ids(lifecycle.page(priority="batch")) == [runs.id]
    assert ids(lifecycle.page(priority="batch", status=("queued",))) == []
    assert len(lifecycle.page(model=waits.meta.model).records) == 4
    assert ids(lifecycle.page(model="another")) == []


def test_filters_are_several_states_an_owner_and_entries_of_metadata(
    lifecycle: Lifecycle, submit: Submit, worker: PretendWorker
) -> None:
    """Any of the states, each of the entries, all together."""
    plain, ours = submit(), submit(metadata={"team": "red", "for": "me"})
    theirs = submit(metadata={"team": "blue", "for": "me"})
    owned = lifecycle.submit(ours.request, "a" * 16)
    worker.complete(worker.claim(theirs.id), "hi")
    assert ids(lifecycle.page(status=("completed", "queued"), owner="")) == [theirs.id, ours.id, plain.id]
    assert ids(lifecycle.page(metadata={"for": "me"}, owner="")) == [theirs.id, ours.id]
    assert ids(lifecycle.page(metadata={"for": "me", "team": "red"})) == [owned.id, ours.id]
    assert ids(lifecycle.page(metadata={"for": "me"}, status=("completed",))) == [theirs.id]
    assert ids(lifecycle.page(metadata={"for": ""})) == ids(lifecycle.page(metadata={"": "me"})) == []
    assert ids(lifecycle.page(owner="a" * 16)) == [owned.id]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("filtered", [False, True])
def test_pages_lead_back_as_they_lead_on(
    lifecycle: Lifecycle, submit: Submit, order: Literal["asc", "desc"], limit: int, filtered: bool
) -> None:
    """From behind the last job back to the first, by ``before``: the same jobs in the same order."""
    jobs = [submit().id for _ in range(7)]
    wanted: Wishes = {"model": MODEL} if filtered else {}
    whole = jobs if order == "asc" else jobs[::-1]
    pages = [
        lifecycle.page(limit=limit, order=order, before="job_zz" if order == "asc" else "job_", **wanted)
    ]
    while pages[-1].next_cursor:
        pages.append(lifecycle.page(limit=limit, order=order, before=pages[-1].next_cursor, **wanted))
    assert [job for page in reversed(pages) for job in ids(page)] == whole
    assert len(pages) == -(-7 // limit)
    on = [lifecycle.page(limit=limit, order=order, **wanted)]
    while on[-1].next_cursor:
        on.append(lifecycle.page(limit=limit, order=order, after=on[-1].next_cursor, **wanted))
    assert [job for page in on for job in ids(page)] == whole


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_between_two_jobs_has_neither(
    lifecycle: Lifecycle, submit: Submit, order: Literal["asc", "desc"]
) -> None:
    """It begins behind the one and ends before the other."""
    jobs = [submit().id for _ in range(6)]
    whole = jobs if order == "asc" else jobs[::-1]
    page = lifecycle.page(limit=2, after=whole[1], before=whole[5], order=order)
    assert (ids(page), page.next_cursor) == (whole[2:4], whole[3])
    rest = lifecycle.page(limit=2, after=page.next_cursor, before=whole[5], order=order)
    assert (ids(rest), rest.next_cursor) == (whole[4:5], None)


def test_a_page_says_where_its_jobs_wait_in_one_round_trip(
    connection: Redis,
    lifecycle: Lifecycle,
    submit: Submit,
    worker: PretendWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same places as each job says of itself; none of those that do not wait."""
    for number in range(30):
        submit(priority=PRIORITIES[number % 3])
    runs = worker.claim().rec.id
    owned = lifecycle.submit(submit().request, "a" * 16)
    records = lifecycle.page(limit=100).records
    lifecycle.views()
    alone = [lifecycle.view(lifecycle.get(rec.id)) for rec in records]
    taken, take = list[object](), connection.connection_pool.get_connection

    def get_connection() -> object:
        taken.append(None)
        return take()

    monkeypatch.setattr(connection.connection_pool, "get_connection", get_connection)
    shown = lifecycle.view_all(records)
    assert len(taken) == 1
    assert shown == alone
    places = {job["id"]: job["queue"] and job["queue"]["position"] for job in shown}
    assert places[runs] is None
    assert places[owned.id] > 10
    assert lifecycle.view_all([]) == []


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
    assert lifecycle.page() == lifecycle.page(after="job_", status=("queued",)) == Page((), None)


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
    assert [rec.view() for rec in lifecycle.page(status=("completed",)).records] == [whole[1]]
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
