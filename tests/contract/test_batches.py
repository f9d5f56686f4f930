"""`/v1/batches` by Flask's client: what is taken, what is refused, and a window that closes by a pretended clock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import Application, create_app
from api.batch_endpoints import ENDPOINTS
from api.batch_schemas import BatchAnswer, BatchList
from api.services import EXTENSION, Services, make_services
from scheduler.settings import Settings
from tests.batching import CHAT, jsonl, line
from tests.contract.test_files import ANN, BOB, upload
from tests.pretend_worker import PretendWorker
from tests.waiting import Clock, wait_until

URL = "/v1/batches"


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def app(
    settings: Settings, connection: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Application]:
    """The application, by the test's clock; its batches go on when the test lets them."""
    made = create_app(settings, connection)
    here = make_services(connection, settings, ENDPOINTS, clock)
    made.extensions[EXTENSION] = here
    monkeypatch.setattr(here.feeder, "wake", lambda: None)
    yield made
    here.reader.close()


def begin(client: FlaskClient, *lines: object, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """Ask for a batch over lines; the answer."""
    file_id = upload(client, jsonl(*lines), headers=headers or {}).get_json()["id"]
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | fields
    return client.post(URL, json=body, headers=headers or {})


def look(client: FlaskClient, batch_id: str) -> BatchAnswer:
    """A batch as clients see it now."""
    return BatchAnswer.model_validate(client.get(f"{URL}/{batch_id}").get_json())


def test_a_batch_begins_by_being_validated(client: FlaskClient, connection: Redis) -> None:
    """Every field of OpenAI's shape is there."""
    said = begin(client, line(0), metadata={"a": "b"})
    assert said.status_code == 200
    batch = BatchAnswer.model_validate(said.get_json())
    assert (batch.status, batch.endpoint, batch.metadata) == ("validating", CHAT, {"a": "b"})
    assert batch.expires_at - batch.created_at == 86_400
    assert look(client, batch.id) == batch


def test_a_window_that_closes_ends_a_batch(
    client: FlaskClient, here: Services, worker: PretendWorker, clock: Clock
) -> None:
    """What was answered is in the output; the rest is told as `batch_expired`."""
    batch_id = begin(client, line(0), line(1), line(2)).get_json()["id"]
    worker.report()
    for _ in range(2):
        here.feeder.round()
    assert look(client, batch_id).request_counts.total == 3
    worker.complete(worker.claim(), "one")
    clock.now += 86_400
    worker.report()
    for _ in range(5):
        here.feeder.round()
    batch = look(client, batch_id)
    assert (batch.status, batch.expired_at) == ("expired", int(clock.now))
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    output, errors = (
        [json.loads(each) for each in client.get(f"/v1/files/{name}/content").data.splitlines()]
        for name in (batch.output_file_id, batch.error_file_id)
    )
    assert [each["custom_id"] for each in output] == ["r0"]
    assert [each["error"]["code"] for each in errors] == ["batch_expired"] * 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"endpoint": 5}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_a_fault_in_a_field_names_it(
    client: FlaskClient, connection: Redis, fields: dict[str, Any], param: str
) -> None:
    """400, and no batch begins."""
    answer = begin(client, line(0), **fields)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)
    assert client.get(URL).get_json()["data"] == []


def test_a_file_that_is_not_there_is_not_found(client: FlaskClient, connection: Redis) -> None:
    """404, naming the field; another's is not there either."""
    theirs = upload(client, headers=ANN).get_json()["id"]
    for file_id in ("file-x", theirs):
        answer = begin(client, line(0), headers=BOB, input_file_id=file_id)
        assert (answer.status_code, answer.get_json()["error"]["param"]) == (404, "input_file_id")


def test_what_a_batch_wrote_is_no_input(client: FlaskClient, here: Services, worker: PretendWorker) -> None:
    """400: it holds answers."""
    batch_id = begin(client, line(0), b"bad").get_json()["id"]
    for _ in range(4):
        here.feeder.round()
        if here.lifecycle.queue.waiting()[0]:
            worker.complete(worker.claim(), "x")
    output = look(client, batch_id).output_file_id
    answer = begin(client, line(0), input_file_id=output)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "input_file_id")


def test_a_batchs_files_are_kept_as_long_as_asked(
    client: FlaskClient, here: Services, connection: Redis
) -> None:
    """From when they were written."""
    keep = {"anchor": "created_at", "seconds": 3600}
    batch_id = begin(client, line(0), b"bad", output_expires_after=keep).get_json()["id"]
    here.feeder.round()
    client.post(f"{URL}/{batch_id}/cancel")
    here.feeder.round()
    file = client.get(f"/v1/files/{look(client, batch_id).error_file_id}").get_json()
    assert (file["purpose"], file["expires_at"] - file["created_at"]) == ("batch_output", 3600)


def test_a_batch_is_its_owners_alone(client: FlaskClient, connection: Redis) -> None:
    """Another key neither sees nor cancels it."""
    batch_id = begin(client, line(0), headers=ANN).get_json()["id"]
    for other in (BOB, {}):
        assert client.get(f"{URL}/{batch_id}", headers=other).status_code == 404
        assert client.post(f"{URL}/{batch_id}/cancel", headers=other).status_code == 404
        assert client.get(URL, headers=other).get_json()["data"] == []
    assert client.post(f"{URL}/{batch_id}/cancel", headers=ANN).get_json()["status"] == "cancelling"


def test_batches_are_listed_newest_first(client: FlaskClient, connection: Redis, clock: Clock) -> None:
    """In pages."""
    ids = []
    for _ in range(3):
        clock.now += 1
        ids.append(begin(client, line(0)).get_json()["id"])
    page = BatchList.model_validate(client.get(f"{URL}?limit=2").get_json())
    assert ([batch.id for batch in page.data], page.has_more) == ([ids[2], ids[1]], True)
    page = BatchList.model_validate(client.get(f"{URL}?limit=2&after={ids[1]}").get_json())
    assert ([batch.id for batch in page.data], page.has_more, page.last_id) == ([ids[0]], False, ids[0])
    for query in ("limit=0", "limit=101", "after=x", "order=asc"):
        assert client.get(f"{URL}?{query}").status_code == 400


def test_a_batch_goes_on_by_itself(settings: Settings, connection: Redis, worker: PretendWorker) -> None:
    """The process that took it feeds it; cancelling an ended batch changes nothing."""
    app = create_app(settings, connection)
    client = app.test_client()
    try:
        with worker.answering():
            batch_id = begin(client, line(0, "a b"), line(1, "c")).get_json()["id"]
            wait_until(lambda: look(client, batch_id).status == "completed", "the batch")
        before = look(client, batch_id)
        assert client.post(f"{URL}/{batch_id}/cancel").get_json() == before.model_dump()
    finally:
        app.extensions[EXTENSION].feeder.close()


def test_one_batch_in_trouble_does_not_keep_others_from_going_on(
    client: FlaskClient, here: Services, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told in the log, without what it is about, and tried again."""
    bad, good = (begin(client, line(number)).get_json()["id"] for number in range(2))
    step = here.feeder._rounds.step

    def failing(batch_id: str, *more: Any) -> bool:
        if batch_id == bad:
            raise KeyError("secret")
        return step(batch_id, *more)

    monkeypatch.setattr(here.feeder._rounds, "step", failing)
    here.feeder.round()
    assert (look(client, bad).status, look(client, good).status) == ("validating", "in_progress")
