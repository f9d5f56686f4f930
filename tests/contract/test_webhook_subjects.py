"""Webhooks of responses and batches: asked for over HTTP, told by OpenAI's events, which its client has classes for."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai import InvalidWebhookSignatureError
from openai.types import webhooks as types
from pydantic import SecretStr
from redis import Redis

from api.app import Application, create_app
from api.services import EXTENSION, Services
from scheduler.settings import Settings, load
from scheduler.webhooks import DUE_KEY
from tests.batching import CHAT, answer_all, jsonl, line
from tests.conftest import MODEL
from tests.contract.receiver import Receiver, receiving
from tests.contract.test_files import upload
from tests.contract.test_webhooks import CLIENTS, OPERATORS, kept, send, unwrap
from tests.pretend_worker import PretendWorker

NEW = "whsec_" + base64.b64encode(b"the operator's next secret, 32+ b").decode()


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> Settings:
    """Settings that let webhooks go to this machine."""
    where = {"redis_url": valkey_url, "data_dir": tmp_path, "models": (MODEL,)}
    return load(**where, webhook_allow="127.0.0.0/8", webhook_secret=OPERATORS)


@pytest.fixture
def app(settings: Settings, connection: Redis) -> Iterator[Application]:
    """The application; its batches go on when the test lets them."""
    made = create_app(settings, connection)
    here = made.extensions[EXTENSION]
    here.feeder.wake = lambda: None
    yield made
    here.reader.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where they go."""
    with receiving() as made:
        yield made


def begin(client: FlaskClient, *lines: object, **fields: Any) -> dict[str, Any]:
    """Begin a batch."""
    file_id = upload(client, jsonl(*lines)).get_json()["id"]
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | fields
    said = client.post("/v1/batches", json=body)
    assert said.status_code == 200, said.text
    return dict(said.get_json())


def end(here: Services, worker: PretendWorker) -> None:
    """Let batches go on to their ends, and send what is due."""
    for _ in range(4):
        here.feeder.round()
        answer_all(worker)
    send(here)


def test_a_response_in_the_background_tells_of_its_end(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver
) -> None:
    """By the id that its client has of it."""
    body = {"model": MODEL, "input": "a", "background": True, "webhook": receiver.url}
    name = client.post("/v1/responses", json=body).get_json()["id"]
    worker.complete(worker.claim(), "hi")
    send(here)
    event = unwrap(receiver.requests[0])
    assert isinstance(event, types.ResponseCompletedWebhookEvent)
    assert event.data.id == name


def test_while_the_operators_secret_is_replaced_both_sign(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver
) -> None:
    """Receivers that have either take the webhook; a client's own secret signs alone."""
    both = SecretStr(f"{OPERATORS}, {NEW}")
    here.sender._settings = here.settings.model_copy(update={"webhook_secret": both})
    client.post("/v1/jobs", json={"model": MODEL, "prompt": "a", "webhook": receiver.url})
    worker.complete(worker.claim(), "hi")
    send(here)
    (request,) = receiver.requests
    assert request.headers["webhook-signature"].count("v1,") == 2
    for secret in (OPERATORS, NEW):
        assert unwrap(request, secret).id == request.headers["webhook-id"]
    with pytest.raises(InvalidWebhookSignatureError):
        unwrap(request, CLIENTS)


def test_a_response_that_nobody_can_fetch_has_no_webhook(client: FlaskClient, connection: Redis) -> None:
    """400; so has one whose URL it may not go to, and the field is named."""
    for fields, param in (
        ({"webhook": "http://127.0.0.1/h", "store": False}, "webhook"),
        ({"webhook": "https://10.0.0.1/h"}, "webhook.url"),
    ):
        answer = client.post("/v1/responses", json={"model": MODEL, "input": "a"} | fields)
        assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)


def test_a_batch_that_was_answered_tells_so(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver, connection: Redis
) -> None:
    """Once, with its client's secret, which is shown nowhere and gone by then; the batch tells how it stands."""
    batch = begin(client, line(0), webhook={"url": receiver.url, "secret": CLIENTS})
    assert batch["webhook"] == {"status": "waiting", "attempts": 0, "last_error": None}
    assert CLIENTS in kept(connection)
    end(here, worker)
    (request,) = receiver.requests
    event = unwrap(request, CLIENTS)
    assert isinstance(event, types.BatchCompletedWebhookEvent)
    assert event.data.id == batch["id"]
    now = client.get(f"/v1/batches/{batch['id']}")
    assert now.get_json()["webhook"] == {"status": "delivered", "attempts": 1, "last_error": None}
    assert CLIENTS not in now.text + kept(connection)
    end(here, worker)
    assert len(receiver.requests) == 1


def test_a_batch_that_was_cancelled_or_failed_tells_that(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver
) -> None:
    """An event for each end."""
    cancelled = begin(client, line(0), webhook=receiver.url)["id"]
    client.post(f"/v1/batches/{cancelled}/cancel")
    failed = begin(client, b"no line", webhook=receiver.url)["id"]
    end(here, worker)
    told = {event.data.id: type(event) for event in map(unwrap, receiver.requests) if hasattr(event, "data")}
    assert told == {cancelled: types.BatchCancelledWebhookEvent, failed: types.BatchFailedWebhookEvent}


def test_a_batch_whose_window_closed_tells_that(
    here: Services, client: FlaskClient, connection: Redis, receiver: Receiver
) -> None:
    """`batch.expired`."""
    batch = begin(client, line(0), webhook=receiver.url)["id"]
    here.feeder.round()
    connection.hset(f"tidegate:batch:{batch}", "expires_at", 1)
    for _ in range(3):
        here.feeder.round()
    send(here)
    event = unwrap(receiver.requests[0])
    assert isinstance(event, types.BatchExpiredWebhookEvent)
    assert event.data.id == batch


def test_a_batchs_webhook_that_could_not_be_sent_is_refused_with_it(
    client: FlaskClient, connection: Redis
) -> None:
    """400, naming the field; no batch begins, and none has a webhook that did not ask for one."""
    file_id = upload(client, jsonl(line(0))).get_json()["id"]
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    answer = client.post("/v1/batches", json=body | {"webhook": "https://169.254.169.254/"})
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "webhook.url")
    assert client.get("/v1/batches").get_json()["data"] == []
    assert client.post("/v1/batches", json=body).get_json()["webhook"] is None
    assert not connection.exists(DUE_KEY)
