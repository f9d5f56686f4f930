"""Where workers' recent pasts are kept: with their reports, for a while, whatever others wrote there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from redis import Redis

from scheduler import fleet
from scheduler.holding import Progress
from scheduler.job import State
from scheduler.ledger import Ledger
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from scheduler.record import Meta
from scheduler.tide import HISTORY_SECONDS, Entry
from scheduler.tides import BEFORE_ALL, behind_all, cursor_of, entry_commands, read_tides, tide_key
from tests.pretend_worker import GIB, PretendWorker
from tests.store.conftest import Submit
from tests.tides import POINT, mark
from tests.waiting import Clock
from workers.reporting import Reporting


def entries(connection: Redis, worker: str = "w", **how: Any) -> list[Entry]:
    """What is read of a worker."""
    return [entry for _, entry in read_tides(connection, {worker: BEFORE_ALL}, **how)[worker]]


def add(connection: Redis, *many: Entry, worker: str = "w") -> None:
    """Write entries."""
    for entry in many:
        for command in entry_commands(worker, entry):
            connection.execute_command(*command)  # type: ignore[no-untyped-call]


def test_a_report_brings_its_entry_with_it(connection: Redis, worker: PretendWorker) -> None:
    """It lapses some time after the last, also where the worker left the fleet."""
    said = worker.report()
    entry = Entry(POINT, (mark("shed"),))
    assert fleet.report(connection, said, 60, entry)
    assert entries(connection, said.name) == [entry]
    fleet.withdraw(connection, said.name)
    assert 0 < connection.ttl(tide_key(said.name)) <= HISTORY_SECONDS


def test_a_key_that_others_took_costs_the_past_alone(connection: Redis, worker: PretendWorker) -> None:
    """The worker goes on reporting, and nothing is read."""
    said = worker.report()
    connection.set(tide_key(said.name), "mine", ex=100)
    assert fleet.report(connection, replace(said, pid=7), 60, Entry(POINT))
    assert [each.pid for each in fleet.live_workers(connection)] == [7]
    assert entries(connection, said.name) == []


def test_numbers_that_others_gave_cost_the_past_alone(connection: Redis, worker: PretendWorker) -> None:
    """After the last of all numbers the server takes no entry; a cursor is one that a client can send."""
    said, end = worker.report(), (1 << 64) - 1
    connection.xadd(tide_key(said.name), {"said": Entry(POINT).dump()}, id=f"{end}-{end}")
    assert fleet.report(connection, replace(said, pid=7), 60, Entry(POINT))
    assert [each.pid for each in fleet.live_workers(connection)] == [7]
    assert cursor_of([read_tides(connection, {said.name: BEFORE_ALL})[said.name]]) == (1 << 63) - 1
    assert cursor_of([[]]) == cursor_of([]) == 0


def test_what_others_wrote_there_is_left_out(connection: Redis) -> None:
    """Between two entries of the worker's: no field of ours, no JSON, another shape."""
    first, last = Entry(POINT), Entry(replace(POINT, running=2))
    add(connection, first)
    for said in ({"said": "{"}, {"said": "[]"}, {"other": "x"}, {b"\xff": b"\xff"}):
        connection.xadd(tide_key("w"), said)  # type: ignore[arg-type]
    add(connection, last)
    assert entries(connection) == [first, last]


def test_only_what_came_after_is_read_anew(connection: Redis) -> None:
    """By the server's own numbers, of which a client is told the milliseconds."""
    add(connection, Entry(POINT))
    ((number, _),) = read_tides(connection, {"w": BEFORE_ALL})["w"]
    assert read_tides(connection, {"w": number})["w"] == []
    assert read_tides(connection, {"w": behind_all(number[0])})["w"] == []
    connection.xadd(tide_key("w"), {"said": Entry(POINT).dump()}, id=f"{number[0] + 1}-0")
    assert len(read_tides(connection, {"w": number})["w"]) == 1
    assert len(read_tides(connection, {"w": behind_all(number[0])})["w"]) == 1
    assert read_tides(connection, {}) == {}


def test_what_is_older_is_not_told(connection: Redis) -> None:
    """By the server's clock."""
    now: Any = connection.time()
    connection.xadd(tide_key("w"), {"said": Entry(POINT).dump()}, id=f"{(now[0] - 60) * 1000}-0")
    connection.expire(tide_key("w"), 100)
    assert len(entries(connection)) == len(entries(connection, seconds=100)) == 1
    assert entries(connection, seconds=30) == []


def test_a_past_is_bounded(connection: Redis) -> None:
    """However much is written."""
    pipeline = connection.pipeline()
    for command in entry_commands("w", Entry(POINT)) * 1_500:
        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
    pipeline.execute()
    assert len(entries(connection)) == connection.xlen(tide_key("w")) <= 1_124


def report(reporting: Reporting, ledger: Ledger, *running: Any) -> None:
    """Say how the worker is."""
    reporting.report(
        "ready",
        ledger,
        running,
        active_bytes=5,
        tokens_per_second=2.5,
        work_tokens_per_second=9.0,
        served=("m",),
        left=lambda _: 3,
        starts_at={},
    )


def test_a_worker_writes_its_account_and_what_happened(
    connection: Redis, lifecycle: Lifecycle, clock: Clock
) -> None:
    """Once each: with the next report, and what the server was not there for with the one after."""
    reporting, ledger = Reporting(lifecycle, "w", ["standard"], clock), Ledger(GIB, 512, 4)
    reporting.note(mark("shed"))
    report(reporting, ledger)
    (entry,) = entries(connection)
    assert entry.marks == (mark("shed"),)
    point = entry.point
    assert (point.budget_bytes, point.headroom_bytes, point.used_bytes) == (GIB, GIB, 5)
    assert (point.at, point.running, point.tokens_per_second) == (clock.now, 0, 2.5)
    report(reporting, ledger)  # nothing changed
    assert len(entries(connection)) == 1
    reporting.note(mark("preempted"))
    report(reporting, ledger)
    assert [each.kind for each in entries(connection)[-1].marks] == ["preempted"]
    (said,) = fleet.live_workers(connection)
    assert said.counters == {"sheds": 1, "preemptions": 1}


def test_how_far_a_job_is_comes_with_the_report(
    connection: Redis, lifecycle: Lifecycle, clock: Clock, submit: Submit
) -> None:
    """Its tokens, and their rate since the first; kept, as far as it came, when it ended; no write for it alone."""
    rec = submit()
    worker = PretendWorker(connection, "w")
    worker.holding._clock = clock
    clock.now += 1
    held = worker.claim(rec.id)
    reporting, ledger = Reporting(lifecycle, "w", ["standard"], clock), Ledger(GIB, 512, 4)
    report(reporting, ledger, held)
    clock.now += 1
    view = lifecycle.view(lifecycle.get(rec.id))
    far = {"prompt_tokens": 7, "prompt_tokens_computed": 0, "completion_tokens": 0}
    assert view["progress"] == far | {"tokens_per_second": None, "first_token_seconds": None}
    worker.holding.write(
        [Progress(held, {"text": "a", "tokens": [1]}, meta=replace(held.rec.meta, output_seen=True))]
    )
    clock.now += 2
    worker.say(held, "b")
    worker.say(held, "c")
    reporting.changed()
    report(reporting, ledger, held)
    view = lifecycle.view(lifecycle.get(rec.id))
    far = {"prompt_tokens": 7, "prompt_tokens_computed": 7, "completion_tokens": 3}
    assert view["progress"] == far | {"tokens_per_second": 1.0, "first_token_seconds": 2.0}
    worker.end(held, Outcome(State.CANCELLED))
    ended = {"prompt_tokens": 7, "completion_tokens": 3}
    assert lifecycle.view(lifecycle.get(rec.id))["progress"] == ended | {
        "tokens_per_second": 1.0,
        "first_token_seconds": 2.0,
    }


def test_when_the_first_token_came_is_not_known_of_what_an_earlier_release_began(
    lifecycle: Lifecycle, submit: Submit
) -> None:
    """Its attempt noted no time: that of the first of a later one would be too late."""
    rec = submit()
    worker = PretendWorker(lifecycle.connection, "w")
    held = worker.claim(rec.id)
    worker.say(held, "a")
    fields = held.rec.meta.fields() | {"first_token_at": None, "output_seen": True}
    swap = worker.holding.put_back(held, Reason.WORKER_STOPPED, Meta.parse(json.dumps(fields).encode()))
    assert lifecycle.queue.swap(swap) == [1]
    again = worker.claim(rec.id)
    worker.say(again, "b")
    worker.complete(again, "ab")
    said = lifecycle.view(lifecycle.get(rec.id))["progress"]
    assert (said["completion_tokens"], said["first_token_seconds"], said["tokens_per_second"]) == (
        3,
        None,
        None,
    )
