"""A job's stream: from the first event or a cursor, no gap and no repeat, ended by the job and `[DONE]`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from redis.client import PubSub

from api import watching
from api.services import Services
from scheduler.events import STEPS_CHANNEL, Kind, LoggedEvent, parse_step
from scheduler.holding import Progress
from scheduler.job import State
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from scheduler.strays import mend
from tests.conftest import MODEL
from tests.contract.streams import names, read, text
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until


def submit(client: FlaskClient, prompt: str = "a b c", **fields: Any) -> str:
    """Submit a job; its id."""
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": prompt, **fields})
    return str(answer.get_json()["id"])


def finished(client: FlaskClient, worker: PretendWorker) -> str:
    """A job that said "a b " and ended: events 1 queued, 2 started, 3 and 4 deltas, 5 completed."""
    job_id = submit(client)
    held = worker.claim(job_id)
    worker.say(held, "a ")
    worker.say(held, "b ", reasoning="hm", logprobs=[{"token": "b", "logprob": float("-inf")}])
    worker.complete(held, "a b ")
    return job_id


def test_a_stream_tells_everything_in_order(client: FlaskClient, worker: PretendWorker) -> None:
    """Numbered from 1; deltas without token ids; the end has the job as its data; then [DONE]."""
    job_id = finished(client, worker)
    events = read(client.get(f"/v1/jobs/{job_id}/stream"))
    assert names(events) == ["queued", "started", "delta", "delta", "completed", "message"]
    assert [event.id for event in events[:5]] == ["1", "2", "3", "4", "5"]
    assert events[2].json() == {"text": "a "}
    assert events[3].json() == {
        "text": "b ",
        "reasoning": "hm",
        "logprobs": [{"token": "b", "logprob": None}],
    }
    job = client.get(f"/v1/jobs/{job_id}").json
    assert events[4].json() == job | {"at": job["completed_at"]}
    times = [events[at].json()["at"] for at in (0, 1, 4)]
    assert times == sorted(times)
    assert times[0] == job["created_at"]
    assert events[5].data == "[DONE]"


def test_every_delta_has_text(client: FlaskClient, worker: PretendWorker) -> None:
    """Empty where a step made none that can be shown, so that a client may read it without looking."""
    job_id = submit(client)
    held = worker.claim(job_id)
    worker.holding.write([Progress(held, {"tokens": [1]}), Progress(held, {"reasoning": "hm"})])
    worker.complete(held, "")
    deltas = [
        event.json() for event in read(client.get(f"/v1/jobs/{job_id}/stream")) if event.name == "delta"
    ]
    assert deltas == [{"text": ""}, {"text": "", "reasoning": "hm"}]


@pytest.mark.parametrize("after", range(7))
def test_a_reader_goes_on_after_the_event_it_saw(
    client: FlaskClient, worker: PretendWorker, after: int
) -> None:
    """By header or by query the rest is the same; after the last there is only [DONE]."""
    job_id = finished(client, worker)
    whole = read(client.get(f"/v1/jobs/{job_id}/stream"))[:-1]
    by_header = client.get(f"/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": str(after)})
    by_query = client.get(f"/v1/jobs/{job_id}/stream?after={after}")
    for answer in (by_header, by_query):
        assert [event.data for event in read(answer)] == [*(event.data for event in whole[after:]), "[DONE]"]


def test_the_header_wins_over_the_query(client: FlaskClient, worker: PretendWorker) -> None:
    """A browser that reconnects repeats the query of its first request."""
    job_id = finished(client, worker)
    answer = client.get(f"/v1/jobs/{job_id}/stream?after=1", headers={"Last-Event-ID": "4"})
    assert names(read(answer)) == ["completed", "message"]


@pytest.mark.parametrize("cursor", ["-1", "x", "1.5", "9" * 30, "NaN", "1_0", "+1", " 1", "1.0", "²"])
def test_a_bad_cursor_is_refused(client: FlaskClient, worker: PretendWorker, cursor: str) -> None:
    """400, naming the header or the query."""
    job_id = finished(client, worker)
    by_header = client.get(f"/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": cursor})
    by_query = client.get(f"/v1/jobs/{job_id}/stream", query_string={"after": cursor})
    assert (by_header.status_code, by_header.get_json()["error"]["param"]) == (400, "Last-Event-ID")
    assert (by_query.status_code, by_query.get_json()["error"]["param"]) == (400, "after")


def test_a_cursor_past_the_end_of_a_live_log_is_refused(client: FlaskClient, connection: Redis) -> None:
    """Waiting for a number that was never given would look like a hang."""
    answer = client.get(f"/v1/jobs/{submit(client)}/stream?after=50")
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "after")


@pytest.mark.parametrize("how", ["accept", "field"])
def test_submitting_can_answer_with_the_stream(client: FlaskClient, worker: PretendWorker, how: str) -> None:
    """`Accept: text/event-stream` and `"stream": true` do the same."""
    body = {"model": MODEL, "prompt": "a b c"} | ({"stream": True} if how == "field" else {})
    headers = {"Accept": "text/event-stream"} if how == "accept" else {}
    with worker.answering():
        answer = client.post("/v1/jobs", json=body, headers=headers)
        events = read(answer)
    assert text(events) == "a b c "
    assert answer.headers["Location"] == f"/v1/jobs/{events[-2].json()['id']}"


def test_a_stream_goes_through_a_shed_without_a_gap(client: FlaskClient, worker: PretendWorker) -> None:
    """The numbers run on from one attempt to the next."""
    job_id = submit(client)
    held = worker.claim()
    worker.say(held, "a ")
    worker.queue.swap(worker.holding.put_back(held, Reason.MEMORY))
    held = worker.claim()
    worker.say(held, "b ")
    worker.complete(held, "a b ")
    events = read(client.get(f"/v1/jobs/{job_id}/stream"))
    assert text(events) == "a b "
    assert [event.id for event in events[:-1]] == [str(number) for number in range(1, 8)]


def test_leaving_a_stream_leaves_the_job(client: FlaskClient, worker: PretendWorker) -> None:
    """Who follows a job may stop; the job goes on, and nobody follows it any more."""
    job_id = submit(client)
    answer = client.get(f"/v1/jobs/{job_id}/stream")
    next(iter(answer.response))
    next(iter(answer.response))
    answer.close()
    assert client.application.extensions["tidegate"].reader.followed == 0
    assert client.get(f"/v1/jobs/{job_id}").get_json()["status"] == "queued"


def _follow_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.5)


def _read_in_thread(client: FlaskClient, job_id: str) -> tuple[threading.Thread, list[Any]]:
    seen: list[Any] = []
    thread = threading.Thread(
        target=lambda: seen.extend(read(client.get(f"/v1/jobs/{job_id}/stream"))), daemon=True
    )
    thread.start()
    wait_until(lambda: client.application.extensions["tidegate"].reader.followed, "the stream follows")
    return thread, seen


def test_a_stream_ends_when_its_job_is_deleted(
    client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's tools delete jobs without a word; the stream says so instead of waiting for ever."""
    _follow_quickly(monkeypatch)
    job_id = submit(client)
    thread, seen = _read_in_thread(client, job_id)
    worker.queue.rq_queue("standard").empty()
    worker.connection.delete(f"tidegate:events:{job_id}")
    mend(worker.queue)
    thread.join(10)
    assert names(seen)[-2:] == ["error", "message"]
    assert seen[-2].json()["error"]["code"] == "not_found"


def test_a_stream_ends_when_rq_cancels_its_job(
    client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's tools write no event; the job itself says that it ended."""
    _follow_quickly(monkeypatch)
    job_id = submit(client)
    thread, seen = _read_in_thread(client, job_id)
    rq_job = worker.queue.rq_queue("standard").fetch_job(job_id)
    assert rq_job is not None
    rq_job.cancel()
    thread.join(10)
    assert names(seen) == ["queued", "cancelled", "message"]
    rq_job.delete()
    mend(worker.queue)


def test_an_end_that_did_not_happen_is_not_believed(client: FlaskClient, worker: PretendWorker) -> None:
    """A worker that had lost a job may announce an end that its write did not make."""
    job_id = submit(client)
    held = worker.claim()
    thread, seen = _read_in_thread(client, job_id)
    worker.queue.swap(worker.queue.publish([(job_id, LoggedEvent(held.number + 1, Kind.CANCELLED))]))
    worker.say(held, "a ")
    worker.complete(held, "a ")
    thread.join(10)
    assert names(seen) == ["queued", "started", "delta", "completed", "message"]


def test_an_end_is_announced_exactly_where_it_happened(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """A cancellation that came after a claim tells nobody that the job ended; one that did, does."""
    rec = here.lifecycle.get(submit(client))
    held = worker.claim()
    other = here.lifecycle.get(submit(client))
    with PubSub(worker.connection.connection_pool) as channel:
        channel.subscribe(STEPS_CHANNEL)
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        assert not here.lifecycle.end_waiting(rec, Outcome(State.CANCELLED))
        assert here.lifecycle.end_waiting(other, Outcome(State.CANCELLED))
        ((job_id, event),) = parse_step(channel.get_message(timeout=5)["data"])
    assert (job_id, event) == (other.id, LoggedEvent(2, Kind.CANCELLED))
    worker.complete(held, "")
