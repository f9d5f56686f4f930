"""`/v1/tide` and its stream: the workers' recent past, and how all of it moves, for who may see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from api import tide
from api.caller import Caller
from api.services import Services
from api.tide_schemas import Tide, TideNews
from scheduler import fleet
from scheduler.errors import ClientError
from scheduler.keys import new_key
from scheduler.tide import Entry, Mark
from scheduler.tides import BEFORE_ALL
from tests.conftest import MODEL
from tests.keys import bearer, make_key
from tests.pretend_worker import PretendWorker
from tests.tides import JOB, POINT, mark
from tests.waiting import wait_until

Event = tuple[str, dict[str, Any], str]

JOB_BODY = {"model": MODEL, "prompt": "hello", "max_tokens": 5}


def write(worker: PretendWorker, *marks: Mark, running: int = 0) -> None:
    """A worker reports, and adds to its past."""
    fleet.report(worker.connection, worker.report(), 60.0, Entry(replace(POINT, running=running), marks))


@contextmanager
def watching(client: FlaskClient, query: str = "", **headers: str) -> Iterator[Iterator[Event]]:
    """A stream's events: kind, data, id; until the block ends."""
    answer = client.get(f"/v1/tide/stream{query}", headers=headers, buffered=False)
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/event-stream")
    with closing(answer):
        yield _events(answer.iter_encoded())


def _events(chunks: Iterator[bytes]) -> Iterator[Event]:
    for chunk in chunks:
        fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if ": " in line[1:])
        if "event" in fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id", "")


def until(stream: Iterator[Event], true_of: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The first event's data of which something is true; there are not many before."""
    for _ in range(40):
        kind, data, _ = next(stream)
        if kind == "tide" and true_of(data):
            TideNews.model_validate(data)
            return data
    raise AssertionError("it did not come")


def test_a_workers_past_is_told(client: FlaskClient, worker: PretendWorker) -> None:
    """Points and marks, oldest first; of those who live."""
    write(worker, mark("shed"))
    write(worker, mark("engine_died", job_id=None, bytes=None), running=3)
    said = client.get("/v1/tide").json or {}
    Tide.model_validate(said)
    (history,) = said["workers"]
    assert history["name"] == "pretend"
    assert [point["running"] for point in history["points"]] == [0, 3]
    assert [each["kind"] for each in history["marks"]] == ["shed", "engine_died"]
    fleet.withdraw(worker.connection, "pretend")
    wait_until(lambda: (client.get("/v1/tide").json or {})["workers"] == [], "it is known to be gone")


@pytest.mark.parametrize("query", ["seconds=0", "seconds=901", "seconds=soon", "seconds=nan", "points=3"])
def test_another_past_is_refused(client: FlaskClient, query: str) -> None:
    """A quarter of an hour is kept."""
    assert client.get(f"/v1/tide?{query}").status_code == 400


def test_the_stream_follows_a_job_and_its_worker(client: FlaskClient, worker: PretendWorker) -> None:
    """It waits, runs and ends; each event has of the histories what is new; results are left out."""
    write(worker, mark("shed"))
    with watching(client) as stream:
        first = until(stream, lambda _: True)
        assert [len(each["points"]) for each in first["histories"]] == [1]
        assert first["queue"]["standard"] == {"jobs": 0, "tokens": 0, "oldest_seconds": None, "head": []}
        job = (client.post("/v1/jobs", json=JOB_BODY).json or {})["id"]
        waits = until(stream, lambda said: said["queue"]["standard"]["head"])
        (head,) = waits["queue"]["standard"]["head"]
        assert (head["id"], head["queue"]["position"]) == (job, 1)
        assert waits["queue"]["standard"]["oldest_seconds"] >= 0
        assert waits["capacity"]["queue"]["jobs"] == 1
        assert waits["histories"] == [{"name": "pretend", "points": [], "marks": []}]
        held = worker.claim(job)
        running = (fleet.RunningReport(job, MODEL, 1, 1),)
        fleet.report(
            worker.connection, worker.report(running=running), 60.0, Entry(POINT, (mark("admitted"),))
        )
        runs = until(stream, lambda said: said["running"])
        assert [each["id"] for each in runs["running"]] == [job]
        assert [each["kind"] for each in runs["histories"][0]["marks"]] == ["admitted"]
        worker.say(held, "hi")
        worker.complete(held, "hi")
        ends = until(stream, lambda said: said["ended"])
        (ended,) = ends["ended"]
        assert (ended["id"], ended["status"], ended["result"]) == (job, "completed", None)
        assert ended["progress"]["completion_tokens"] == 3


def test_a_failed_job_has_its_error(client: FlaskClient, worker: PretendWorker) -> None:
    """With its numbers; the last that ended comes first."""
    for error in (
        None,
        ClientError("insufficient_memory", "insufficient memory", retry_after=1, limit_bytes=5),
    ):
        held = worker.claim((client.post("/v1/jobs", json=JOB_BODY).json or {})["id"])
        worker.fail(held, error) if error else worker.complete(held, "hi")
    with watching(client) as stream:
        failed, completed = until(stream, lambda said: len(said["ended"]) == 2)["ended"]
    assert (failed["error"]["code"], failed["error"]["limit_bytes"]) == ("insufficient_memory", 5)
    assert (completed["status"], completed["error"]) == ("completed", None)


@pytest.mark.parametrize("by", ["header", "query"])
def test_a_stream_goes_on_behind_its_cursor(client: FlaskClient, worker: PretendWorker, by: str) -> None:
    """What was seen is not told again; what came meanwhile is."""
    write(worker)
    with watching(client) as stream:
        _, _, cursor = next(stream)
    wait_until(lambda: worker.connection.time()[0] * 1000 > int(cursor), "another millisecond")  # type: ignore[index]
    write(worker, running=7)
    headers = {"Last-Event-ID": cursor} if by == "header" else {}
    with watching(client, f"?after={cursor}" if by == "query" else "", **headers) as stream:
        first = until(stream, lambda said: said["histories"][0]["points"])
    assert [point["running"] for point in first["histories"][0]["points"]] == [7]


def test_nothing_is_told_while_nothing_changes(
    here: Services, client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But that the stream lives."""
    monkeypatch.setattr("api.sse.HEARTBEAT_SECONDS", 0.0)
    write(worker)
    answer = client.get("/v1/tide/stream", buffered=False)
    with closing(answer):
        chunks = answer.iter_encoded()
        said = [next(chunks) for _ in range(4)]
    assert [chunk.split(b":")[0] for chunk in said] == [b"retry", b"id", b"", b""]
    wait_until(lambda: here.tide.watching == 0, "it is left")


def test_while_the_server_is_away_the_stream_stays(
    here: Services, client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says once that there is trouble, and then all of it again."""
    write(worker)

    def away() -> Any:
        raise RedisConnectionError("gone")

    with watching(client) as stream:
        until(stream, lambda _: True)
        with monkeypatch.context() as patched:
            patched.setattr(here.lifecycle, "workers", away)
            kind, said, number = next(stream)
        assert (kind, said["code"], number) == ("trouble", "store_unavailable", "")
        back = until(stream, lambda _: True)
    assert back["histories"] == [{"name": "pretend", "points": [], "marks": []}]


def test_streams_end_when_the_process_does(
    here: Services, client: FlaskClient, worker: PretendWorker
) -> None:
    """Their clients come back to another."""
    write(worker)
    with watching(client) as stream:
        until(stream, lambda _: True)
        here.tide.close()
        assert list(stream) == []


def test_all_who_watch_share_one_look(
    here: Services, client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are."""
    write(worker)
    looks: list[int] = []
    look = here.tide._look
    monkeypatch.setattr(here.tide, "_look", lambda seers: (looks.append(len(seers)), look(seers))[1])
    with watching(client) as one, watching(client) as two, watching(client) as three:
        for stream in (one, two, three):
            until(stream, lambda _: True)
        assert here.tide.watching == 3
    assert set(looks) == {1}


def test_who_sees_the_same_is_sent_the_same(here: Services, worker: PretendWorker) -> None:
    """An event is made once, however many watch; for who saw less of it, or may see less, another."""
    write(worker)
    seat = here.tide.enter(None)
    look = seat.take(10)
    here.tide.leave(seat)
    assert look is not None
    first = tide._event(look, Caller(""), seen := {}, BEFORE_ALL)
    assert first is tide._event(look, Caller("other"), {}, BEFORE_ALL)
    later = tide._event(look, Caller(""), dict(seen), BEFORE_ALL)
    assert later is tide._event(look, Caller(""), seen, BEFORE_ALL)
    _, key = new_key(0.0, models=("another",), sees_all=True)
    bounded = tide._event(look, Caller(key.owner, key), {}, BEFORE_ALL)
    assert (MODEL.encode() in first, MODEL.encode() in bounded) == (True, False)
    assert len({first, later, bounded}) == 3
    for after in range(1, 100):
        tide._event(look, Caller(""), {}, (after, 0))
    assert len(look.events) == 16


def test_a_key_sees_its_own(client: FlaskClient, connection: Redis, worker: PretendWorker) -> None:
    """Others' jobs are counted; they are not named, nor are models that it may not use."""
    (ann, hers), (bob, _) = (make_key(connection), make_key(connection, models=("another",)))
    operator, _ = make_key(connection, sees_all=True)
    job = (client.post("/v1/jobs", json=JOB_BODY, headers=bearer(ann)).json or {})["id"]
    ended = (client.post("/v1/jobs", json=JOB_BODY, headers=bearer(ann)).json or {})["id"]
    worker.complete(worker.claim(ended), "hi")
    running = (client.post("/v1/jobs", json=JOB_BODY, headers=bearer(ann)).json or {})["id"]
    held = worker.claim(running)
    report = worker.report(running=(fleet.RunningReport(running, MODEL, 1, 1),))
    fleet.report(connection, report, 60.0, Entry(POINT, (replace(mark("shed"), owner=hers.owner),)))
    assert client.get("/v1/tide").status_code == 401
    capacity = "/v1/capacity"
    wait_until(
        lambda: (client.get(capacity, headers=bearer(operator)).json or {})["workers"][0]["running"],
        "the report is read",
    )
    for token, own in ((ann, True), (bob, False), (operator, True)):
        with watching(client, **bearer(token)) as stream:
            said = until(stream, lambda _: True)
        assert [each["id"] for each in said["queue"]["standard"]["head"]] == ([job] if own else [])
        assert [each["id"] for each in said["running"]] == ([running] if own else [])
        assert [each["id"] for each in said["ended"]] == ([ended] if own else [])
        assert said["queue"]["standard"]["jobs"] == 1
        assert said["histories"][0]["marks"][0]["job_id"] == (JOB if own else None)
        (told,) = (client.get("/v1/tide", headers=bearer(token)).json or {})["workers"]
        assert told["marks"][0]["job_id"] == (JOB if own else None)
        models = [each["id"] for each in said["capacity"]["workers"][0]["models"]]
        assert models == ([] if token == bob else [MODEL])
    worker.complete(held, "hi")


@pytest.mark.parametrize("header", ["x", "-1", "1_0"])
def test_what_is_no_cursor_is_refused(client: FlaskClient, header: str) -> None:
    """As in a job's stream."""
    answer = client.get("/v1/tide/stream", headers={"Last-Event-ID": header})
    assert (answer.status_code, (answer.json or {})["error"]["param"]) == (400, "Last-Event-ID")


def test_a_history_that_is_gone_is_begun_anew(client: FlaskClient, worker: PretendWorker) -> None:
    """The queue's server lost it, or was replaced: what comes then is told."""
    write(worker)
    with watching(client) as stream:
        until(stream, lambda _: True)
        worker.connection.delete("tidegate:tide:pretend")
        write(worker, running=9)
        news = until(stream, lambda said: said["histories"][0]["points"])
    assert [point["running"] for point in news["histories"][0]["points"]] == [9]
    assert tide.TICK_SECONDS <= 1
