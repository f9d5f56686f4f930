"""The streams of `/v1/responses` by Flask's client, and who may leave them."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api import responses, watching
from api.services import Services
from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.reasons import Reason
from tests.contract.asking import URL, ask, background, followed, job
from tests.contract.streams import names, read
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until
from tidegate.sse import EventReader


def test_a_stream_is_the_same_at_any_time(client: FlaskClient, worker: PretendWorker) -> None:
    """As it came, read again from the start, and from behind each event on."""
    with worker.answering():
        live = read(ask(client, "a b c", stream=True))
    assert names(live)[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert names(live)[-1] == "response.completed"
    assert [event.json()["sequence_number"] for event in live] == list(range(len(live)))
    assert [event.json()["type"] for event in live] == names(live)
    name = live[0].json()["response"]["id"]
    assert client.get(f"{URL}/{name}").get_json() == live[-1].json()["response"]
    again = followed(client, name)
    assert [event.data for event in again] == [event.data for event in live]
    for number in range(len(live)):
        rest = followed(client, name, starting_after=number)
        assert [event.data for event in rest] == [event.data for event in live[number + 1 :]]


def test_a_job_that_is_shed_leaves_no_trace_in_its_stream(client: FlaskClient, worker: PretendWorker) -> None:
    """What was streamed before goes on behind it, under the next number."""
    name = background(client)
    held = worker.claim()
    worker.say(held, "a ")
    seen = iter(client.get(f"{URL}/{name}?stream=true").response)
    before = b""
    while b"output_text.delta" not in before:
        before += next(seen)
    assert worker.queue.swap(worker.holding.put_back(held, Reason.MEMORY)) == [1]
    assert client.get(f"{URL}/{name}").get_json()["status"] == "in_progress"
    held = worker.claim()
    worker.say(held, "b ")
    worker.complete(held, "a b ")
    rest = before + b"".join(seen)
    assert rest.count(b"event: response.in_progress") == 1
    events = followed(client, name)
    assert [event.json()["delta"] for event in events if event.name == "response.output_text.delta"] == [
        "a ",
        "b ",
    ]
    assert rest.endswith(f"data: {events[-1].data}\n\n".encode())


@pytest.mark.parametrize("stream", [False, True])
def test_what_shall_not_be_stored_is_forgotten(
    client: FlaskClient, worker: PretendWorker, here: Services, stream: bool
) -> None:
    """Answered, and then neither the response nor its job is there."""
    with worker.answering():
        answer = ask(client, "a b", store=False, stream=stream)
        assert b"a b " in answer.data
        answer.close()
    assert here.lifecycle.page().records == ()


def test_what_shall_not_be_stored_is_forgotten_though_its_client_left(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """Once its worker has let go of it."""
    with worker.answering():
        answer = ask(client, "stall", store=False, stream=True)
        answer.close()
    assert here.lifecycle.page().records == ()


def test_what_shall_not_be_stored_cannot_be_fetched_while_it_runs(
    client: FlaskClient, worker: PretendWorker, here: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client has its stream, and it is cancelled with that as any other."""
    monkeypatch.setattr(responses, "HOLD_SECONDS", 0.0)
    monkeypatch.setattr(watching, "CANCEL_SECONDS", 0.0)
    answer = ask(client, store=False, stream=True)
    held = worker.claim()
    assert client.get(f"{URL}/{held.rec.id.replace('job_', 'resp_')}").status_code == 404
    answer.close()
    assert worker.cancel_wanted(held)


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_fails_before_its_first_text_is_an_http_error(
    client: FlaskClient, worker: PretendWorker, stream: bool
) -> None:
    """Under its own status, so that clients retry by themselves."""
    with worker.answering():
        answer = ask(client, "fail", stream=stream)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.get_json()["error"]["code"] == "insufficient_memory"


def test_a_response_in_the_background_is_streamed_from_the_first_moment(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """Its id comes at once; who leaves the stream leaves the response to go on."""
    answer = ask(client, background=True, stream=True)
    first = b"".join(chunk for _, chunk in zip(range(2), answer.response, strict=False))
    assert b'"type":"response.created"' in first
    answer.close()
    (rec,) = here.lifecycle.page().records
    held = worker.claim()
    worker.say(held, "a")
    worker.complete(held, "a")
    assert here.lifecycle.get(rec.id).state is State.COMPLETED


def test_leaving_a_stream_cancels_the_response(
    client: FlaskClient, worker: PretendWorker, here: Services
) -> None:
    """Unless it is in the background, nobody waits for it any more."""
    with worker.answering():
        answer = ask(client, "stall", stream=True)
        answer.close()
        (rec,) = here.lifecycle.page().records
        wait_until(lambda: here.lifecycle.get(rec.id).state is State.CANCELLED, "cancelled")
    assert here.reader.followed == 0


def test_a_stream_that_waits_long_begins_without_text(
    client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the answer is a stream, whatever comes; a failure is then its last event."""
    monkeypatch.setattr(responses, "HOLD_SECONDS", 0.0)
    answer = ask(client, stream=True)
    worker.fail(worker.claim(), ClientError("queue_timeout", "it waited for 3 s", retry_after=3))
    events = read(answer)
    assert names(events)[0] == "response.created"
    assert (events[-1].name, events[-1].json()["response"]["error"]["cause"]) == (
        "response.failed",
        "queue_timeout",
    )


def test_cancelling_ends_the_stream_and_keeps_what_was_said(
    client: FlaskClient, worker: PretendWorker
) -> None:
    """Twice is once; a response that has ended stays as it is."""
    with worker.answering():
        name = background(client, "stall")
        wait_until(lambda: client.get(f"{URL}/{name}").get_json()["status"] == "in_progress", "it runs")
        first = client.post(f"{URL}/{name}/cancel").get_json()
    assert first["status"] == "cancelled"
    assert client.post(f"{URL}/{name}/cancel").get_json() == first
    assert followed(client, name)[-1].name == "response.cancelled"


def test_a_stream_whose_response_is_deleted_says_so(
    client: FlaskClient, worker: PretendWorker, here: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the number of the event before, so that nobody who goes on after it misses one."""
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.0)
    name = background(client)
    chunks = iter(client.get(f"{URL}/{name}?stream=true").response)
    said = b"".join(next(chunks) for _ in range(2))
    here.lifecycle.delete(job(name))
    *_, before, last = EventReader().feed(said + b"".join(chunks))
    assert (last.name, last.json()["code"]) == ("error", "not_found")
    assert last.json()["sequence_number"] == before.json()["sequence_number"]


def test_where_a_stream_goes_on_is_a_number(client: FlaskClient, connection: Redis) -> None:
    """And only a stream goes on somewhere."""
    name = background(client)
    for query in ("stream=true&starting_after=x", "stream=true&starting_after=-1", "starting_after=1"):
        answer = client.get(f"{URL}/{name}?{query}")
        assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "starting_after")
    assert client.get(f"{URL}/{name}?include[]=message.output_text.logprobs&include=x").status_code == 200
