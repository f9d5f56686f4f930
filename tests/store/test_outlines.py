"""Jobs in outline: whatever comes or goes meanwhile, each once; and nothing that is wanted is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError
from rq.job import Job, JobStatus

from scheduler import listing, outlines
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.job import PRIORITIES, State
from scheduler.lifecycle import Lifecycle
from scheduler.listing import Filters
from scheduler.outlines import Outline, read_outlines
from scheduler.queue import JOBS_KEY, JobQueue
from scheduler.record import Meta, read_heading
from tests.store.conftest import Submit

words = st.text(max_size=6) | st.sampled_from(['"', "\\", "é", "🌊", "a b", "null", "org/model"])
entries = st.dictionaries(words, words, max_size=3)
metas = st.builds(
    Meta,
    model=words,
    priority=st.sampled_from(PRIORITIES),
    owner=st.sampled_from(["", "a" * 16, "b" * 16]),
    output_seen=st.booleans(),
    ended_as=st.none() | st.sampled_from(sorted(State)),
    metadata=st.none() | entries,
)


@given(
    meta=metas,
    status=st.sampled_from([*(each.value for each in JobStatus), "", "?"]),
    lacking=st.sets(st.sampled_from(["model", "priority", "owner", "metadata", "ended_as", "output_seen"])),
    plainly=st.booleans(),
    data=st.data(),
)
def test_what_is_wanted_passes_the_sieve(
    meta: Meta, status: str, lacking: set[str], plainly: bool, data: st.DataObject
) -> None:
    """Whatever is asked of a job that it meets, with fields that an earlier release did not write."""
    fields = {name: value for name, value in meta.fields().items() if name not in lacking}
    stored = json.dumps(fields, ensure_ascii=plainly).encode(errors="surrogatepass")
    try:
        rec = read_heading("job_1", {b"meta": stored, b"status": status.encode()})
    except ClientError:
        return  # half a surrogate pair
    of, has = rec.meta, rec.meta.metadata or {}
    asked = data.draw(st.sets(st.sampled_from(["model", "priority", "owner", "status"])))
    filters = Filters(
        status=(rec.wire_state.value, data.draw(st.sampled_from(sorted(State)))) if "status" in asked else (),
        model=of.model if "model" in asked else None,
        priority=of.priority if "priority" in asked else None,
        owner=of.owner if "owner" in asked else None,
        metadata={name: has[name] for name in has if data.draw(st.booleans())},
    )
    assert filters.let_through(rec)
    assert filters.sieve().lets(Outline(rec.id, stored, status.encode()))


def test_most_that_is_not_wanted_does_not_pass() -> None:
    """By each of the filters."""
    meta = Meta(model="a", owner="a" * 16, metadata={"team": "red"})
    waits = Outline("job_1", meta.dump(), b"queued")
    ended = Outline("job_2", replace(meta, ended_as="completed").dump(), b"finished")
    wanted: list[dict[str, Any]] = [
        {"model": "b"},
        {"owner": "b" * 16},
        {"priority": "batch"},
        {"metadata": {"team": "blue"}},
        {"status": ("cancelled", "failed")},
    ]
    for each in wanted:
        sieve = Filters(**each).sieve()
        assert not sieve.lets(waits) and not sieve.lets(ended)
    assert [Filters(status=("queued",)).sieve().lets(each) for each in (waits, ended)] == [True, False]
    assert [Filters(status=("incomplete",)).sieve().lets(each) for each in (waits, ended)] == [False, True]
    assert not Filters().sieve().lets(Outline("job_3", b"", b""))


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("meanwhile", ["comes", "goes"])
def test_what_comes_or_goes_between_two_commands_moves_nothing(
    connection: Redis, submit: Submit, monkeypatch: pytest.MonkeyPatch, newest_first: bool, meanwhile: str
) -> None:
    """The place is counted, then read from: a job on the near side of it came or went in between."""
    jobs = [submit().id for _ in range(9)]
    order = jobs[::-1] if newest_first else jobs
    near, asks, asked = order[0], outlines.round_trip, list[int]()

    def round_trip(client: Redis, commands: Any) -> list[Any]:
        if asked == [1]:
            if meanwhile == "goes":
                connection.zrem(JOBS_KEY, near)
            else:
                connection.zadd(JOBS_KEY, {near[:4] + ("z" if newest_first else "0") * 26: 0})
        asked.append(len(commands))
        return asks(client, commands)

    monkeypatch.setattr(outlines, "round_trip", round_trip)
    edge = {"low": None, "high": order[2]} if newest_first else {"low": order[2], "high": None}
    found = read_outlines(connection, 4, **edge, newest_first=newest_first)
    expected = order[3:7] if meanwhile == "goes" else order[3:6]
    assert ([each.job_id for each in found.outlines], found.more) == (expected, True)
    assert asked == ([1, 4, 4] if meanwhile == "goes" else [1, 4])


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("back", [False, True])
def test_a_page_looks_at_so_many_jobs_and_no_more(
    lifecycle: Lifecycle,
    submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
    order: Literal["asc", "desc"],
    back: bool,
) -> None:
    """Then it is short, or empty; its cursor leads on until all were found, each once."""
    monkeypatch.setattr(listing, "_LOOKS_MOST", 4)
    monkeypatch.setattr(listing, "_LOOK", 2)
    monkeypatch.setattr(listing, "_LOOK_MOST", 2)
    wanted = [submit(priority="batch" if at in (0, 1, 13) else "standard") for at in range(14)]
    looked: list[int] = []
    read = listing.read_outlines
    monkeypatch.setattr(
        listing, "read_outlines", lambda *args, **named: looked.append(args[1]) or read(*args, **named)
    )
    edge: dict[str, str] = {"before" if back else "after": "job_" if (order == "desc") == back else "job_zz"}
    found: list[str] = []
    sizes: list[int] = []
    while True:
        page = lifecycle.page(limit=1, order=order, priority="batch", **edge)  # type: ignore[arg-type]
        found += [rec.id for rec in page.records]
        sizes.append(len(page.records))
        if page.next_cursor is None:
            break
        edge = {next(iter(edge)): page.next_cursor}
    expected = [rec.id for rec in wanted if rec.meta.priority == "batch"]
    assert sorted(found) == expected
    assert 0 in sizes and max(looked) == 2 and len(looked) <= 3 * len(sizes)


def test_a_page_reads_so_many_that_are_not_wanted_and_no_more(
    lifecycle: Lifecycle, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that somebody made look as if they were."""
    monkeypatch.setattr(listing, "_UNWANTED_MOST", 40)
    right = submit(metadata={"a": "b"})
    for _ in range(100):
        submit(metadata={"b": "a"})
    read: list[int] = []
    headings = JobQueue.headings
    monkeypatch.setattr(
        JobQueue, "headings", lambda queue, ids: read.append(len(ids)) or headings(queue, ids)
    )
    page, pages = lifecycle.page(limit=1, metadata={"a": "b"}), 1
    assert (page.records, sum(read) <= 40 + 32) == ((), True)
    while not page.records:
        page, pages = lifecycle.page(limit=1, metadata={"a": "b"}, after=page.next_cursor), pages + 1
    assert ([rec.id for rec in page.records], page.next_cursor, pages) == ([right.id], None, 2)


def test_what_others_wrote_among_the_jobs_is_no_cursor(
    connection: Redis, lifecycle: Lifecycle, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids that no client could name: a page that ends among them ends before or behind them."""
    monkeypatch.setattr(listing, "_LOOKS_MOST", 2)
    monkeypatch.setattr(listing, "_LOOK", 2)
    monkeypatch.setattr(listing, "_LOOK_MOST", 2)
    first, middle = submit(priority="batch").id, submit().id
    others = [b"job_\xff%d" % at for at in range(7)] + [middle.encode() + b"*", b"z" * 30]
    connection.zadd(JOBS_KEY, dict.fromkeys(others, 0))
    connection.hset(Job.key_for("z" * 30), "meta", Meta(priority="batch").dump())
    connection.hset(Job.key_for("job_x"), "meta", "[")
    page = lifecycle.page(limit=5, priority="batch")
    found = [rec.id for rec in page.records]
    while page.next_cursor:
        assert page.next_cursor in (first, middle)
        page = lifecycle.page(limit=5, priority="batch", after=page.next_cursor)
        found += [rec.id for rec in page.records]
    assert found == ["z" * 30, first]
    connection.zrem(JOBS_KEY, *others)
    connection.delete(Job.key_for("z" * 30), Job.key_for("job_x"))


def test_a_server_that_is_full_lists_its_jobs(
    connection: Redis, lifecycle: Lifecycle, submit: Submit
) -> None:
    """It takes no command that might write."""
    jobs = [submit(priority="batch").id for _ in range(3)]
    connection.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            submit()
        page = lifecycle.page(limit=1, priority="batch", after=jobs[2])
    finally:
        connection.config_set("maxmemory", 0)
    assert ([rec.id for rec in page.records], page.next_cursor) == ([jobs[1]], jobs[1])


def test_what_is_no_list_of_jobs_is_the_servers_fault(
    connection: Redis, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others gave the key another type, whenever they did."""
    rec, asks = submit(), outlines.round_trip

    def round_trip(client: Redis, commands: Any) -> list[Any]:
        connection.set(JOBS_KEY, "others'")
        return asks(client, commands)

    monkeypatch.setattr(outlines, "round_trip", round_trip)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        read_outlines(connection, 1, None, rec.id, newest_first=True)
    connection.delete(JOBS_KEY)
    looked = asks(connection, [("ZLEXCOUNT", JOBS_KEY, "-", "+")])
    monkeypatch.setattr(
        outlines, "round_trip", lambda *args: looked if len(args[1]) == 1 else round_trip(*args)
    )
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        read_outlines(connection, 1, None, rec.id, newest_first=True)
    connection.delete(JOBS_KEY)
