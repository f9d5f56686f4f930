"""Webhooks as clients ask for them and receive them: the official package verifies and parses."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from flask.testing import FlaskClient
from openai.types.webhooks import UnwrapWebhookEvent
from redis import Redis
from werkzeug.test import TestResponse

from api.capacity_schemas import Capacity
from api.schemas import JobAnswer
from api.services import Services
from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.lifecycle import Lifecycle
from scheduler.outcome import Outcome
from scheduler.request import read_request
from scheduler.settings import Settings, load
from scheduler.webhooks import DUE_KEY
from tests.conftest import MODEL
from tests.contract.receiver import Received, Receiver, receiving
from tests.contract.served import serve
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

OPERATORS = "whsec_" + base64.b64encode(b"the operator's secret, of 32 byte").decode()
CLIENTS = "whsec_" + base64.b64encode(b"a client's own secret, of 32 byte").decode()
TEXT = {
    "text": "a",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
OUTCOMES = {
    State.COMPLETED: Outcome(State.COMPLETED, TEXT),
    State.INCOMPLETE: Outcome(State.INCOMPLETE, TEXT | {"finish_reason": "length"}),
    State.FAILED: Outcome(State.FAILED, error=ClientError("internal_error", "a bug").body()),
    State.CANCELLED: Outcome(State.CANCELLED),
}


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> Settings:
    """Settings that let webhooks go to this machine."""
    return load(
        redis_url=valkey_url,
        data_dir=tmp_path,
        models=(MODEL,),
        webhook_allow="127.0.0.0/8",
        webhook_secret=OPERATORS,
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where they go."""
    with receiving() as made:
        yield made


def submit(client: FlaskClient, webhook: object, **fields: Any) -> str:
    """Submit a job with a webhook; its id."""
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a", "webhook": webhook, **fields})
    assert answer.status_code == 202, answer.data
    return str((answer.json or {})["id"])


def send(here: Services) -> None:
    """Send what is due."""
    here.sender.look()
    assert here.sender.wait(15)


def seen(client: FlaskClient, job_id: str) -> dict[str, Any]:
    """How a job's webhook stands, as its client sees it."""
    job = JobAnswer.model_validate(client.get(f"/v1/jobs/{job_id}").json)
    return dict(job.webhook.model_dump() if job.webhook else {})


def unwrap(request: Received, secret: str = OPERATORS) -> UnwrapWebhookEvent:
    """What the official client makes of a request."""
    return openai.OpenAI(api_key="none", webhook_secret=secret).webhooks.unwrap(request.body, request.headers)


@pytest.mark.parametrize("state", OUTCOMES)
def test_the_official_client_unwraps_a_responses_webhook(
    here: Services, worker: PretendWorker, receiver: Receiver, state: State
) -> None:
    """Verified by the operator's secret, and parsed as the class that it has for such an event."""
    asked = read_request({"model": MODEL, "prompt": "a", "webhook": receiver.url})
    rec = here.lifecycle.submit(asked, note={"response": {}})
    worker.end(worker.claim(rec.id), OUTCOMES[state])
    send(here)
    (request,) = receiver.requests
    event = unwrap(request)
    assert type(event).__name__ == f"Response{state.capitalize()}WebhookEvent"
    assert (event.type, event.data.id) == (f"response.{state}", rec.id.replace("job_", "resp_"))
    assert abs(event.created_at - time.time()) < 60
    assert event.id == request.headers["webhook-id"] == rec.id.replace("job_", "evt_")


def test_a_webhook_is_a_post_of_json(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver
) -> None:
    """To the URL's path and query, with the headers of the standard and our name."""
    job = submit(client, receiver.url + "?a=b")
    worker.end(worker.claim(job), OUTCOMES[State.COMPLETED])
    send(here)
    (request,) = receiver.requests
    assert request.path == "/hook?a=b"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("tidegate/")
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    assert request.headers["webhook-signature"].startswith("v1,")


def test_the_official_client_unwraps_a_plain_jobs_webhook(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver
) -> None:
    """By the client's own secret and no other. It has no class for the type, so it takes one of its own, with our fields."""
    job = submit(client, {"url": receiver.url, "secret": CLIENTS})
    worker.end(worker.claim(job), OUTCOMES[State.COMPLETED])
    send(here)
    (request,) = receiver.requests
    event: Any = unwrap(request, CLIENTS)
    assert (event.type, event.data.id, event.data.status) == ("job.completed", job, "completed")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrap(request, OPERATORS)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrap(
            Received(request.path, request.headers, request.body.replace(b"completed", b"cancelled")), CLIENTS
        )


def test_a_job_that_never_ran_has_a_webhook_too(
    here: Services, client: FlaskClient, receiver: Receiver
) -> None:
    """Cancelled while it waited."""
    job = submit(client, receiver.url)
    assert client.post(f"/v1/jobs/{job}/cancel").status_code == 200
    send(here)
    assert json.loads(receiver.requests[0].body)["data"] == {"id": job, "status": "cancelled"}


def test_a_client_sees_how_its_webhook_stands(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver
) -> None:
    """Waiting for the end, pending, tried, delivered; in lists too; an operator sees how many."""
    job = submit(client, receiver.url)
    assert seen(client, job) == {"status": "waiting", "attempts": 0, "last_error": None}
    worker.end(worker.claim(job), OUTCOMES[State.COMPLETED])
    assert seen(client, job) == {"status": "pending", "attempts": 0, "last_error": None}
    assert _counts(client) == (1, 0)
    receiver.answers.append((500, {}))
    send(here)
    tried = {"status": "pending", "attempts": 1, "last_error": "HTTP 500"}
    assert seen(client, job) == tried
    assert client.get("/v1/jobs").get_json()["data"][0]["webhook"] == tried
    here.sender._clock = lambda: time.time() + 6
    send(here)
    assert seen(client, job) == {"status": "delivered", "attempts": 2, "last_error": None}
    assert _counts(client) == (0, 1)


def _counts(client: FlaskClient) -> tuple[int, int]:
    webhooks = Capacity.model_validate(client.get("/v1/capacity").json).webhooks
    return webhooks.pending, webhooks.delivered


def kept(connection: Redis) -> str:
    """Everything that the server keeps of jobs and webhooks."""
    hashes = [connection.hgetall(key) for key in connection.scan_iter(_type="hash")]
    logs = [connection.xrange(key) for key in connection.scan_iter(_type="stream")]
    return f"{hashes} {logs}"


def test_a_clients_secret_is_never_shown(
    here: Services,
    client: FlaskClient,
    worker: PretendWorker,
    receiver: Receiver,
    connection: Redis,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not in an answer, an event, a log line or the webhook; once it was delivered it is nowhere."""
    caplog.set_level(logging.DEBUG)
    receiver.answers += [(500, {}), (200, {})]
    job = submit(client, {"url": receiver.url + "?token=hidden", "secret": CLIENTS})
    said = "".join(
        client.get(path).text for path in ("/v1/jobs", f"/v1/jobs/{job}", f"/v1/jobs/{job}/result")
    )
    worker.end(worker.claim(job), OUTCOMES[State.COMPLETED])
    send(here)
    said += client.get(f"/v1/jobs/{job}").text
    assert CLIENTS in kept(connection)
    here.sender._clock = lambda: time.time() + 6
    send(here)
    said += client.get(f"/v1/jobs/{job}/stream").text + client.get("/v1/capacity").text
    bad = client.post(
        "/v1/jobs", json={"model": MODEL, "prompt": "a", "webhook": {"url": "ftp://a", "secret": CLIENTS}}
    )
    assert bad.status_code == 400
    said += bad.text + caplog.text + "".join(capfd.readouterr())
    said += "".join(f"{request.headers} {request.body!r}" for request in receiver.requests)
    assert seen(client, job)["status"] == "delivered"
    assert CLIENTS not in said
    assert "token=hidden" not in said
    assert CLIENTS not in kept(connection)


@pytest.mark.parametrize(
    ("webhook", "param"),
    [
        ("https://10.0.0.1/h", "webhook.url"),
        ("https://[::1]/h", "webhook.url"),
        ("http://1.1.1.1/h", "webhook.url"),
        ("https://u:p@hooks.example/h", "webhook.url"),
        ({"url": "gopher://hooks.example"}, "webhook.url"),
        ({"url": "https://hooks.example", "secret": "s3cret"}, "webhook.secret"),
        ({"secret": CLIENTS}, "webhook.url"),
        (7, "webhook"),
    ],
)
def test_a_webhook_that_could_not_be_sent_is_refused_with_its_job(
    client: FlaskClient, worker: PretendWorker, webhook: object, param: str
) -> None:
    """400, naming the field; nothing is queued."""
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a", "webhook": webhook})
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)
    assert client.get("/v1/jobs").get_json()["data"] == []


def test_a_server_sends_what_was_left_and_what_comes(
    valkey_url: str,
    tmp_path: Path,
    connection: Redis,
    settings: Settings,
    worker: PretendWorker,
    receiver: Receiver,
) -> None:
    """Nobody need ask it for anything; stopped in the middle of a try, it leaves it to the next at once."""
    lifecycle = Lifecycle(connection, settings)
    asked = read_request({"model": MODEL, "prompt": "a", "webhook": receiver.url})
    more = {"TIDEGATE_WEBHOOK_ALLOW": "127.0.0.1", "TIDEGATE_WEBHOOK_SECRET": OPERATORS}
    jobs = [lifecycle.submit(asked).id for _ in range(2)]
    worker.end(worker.claim(jobs[0]), OUTCOMES[State.COMPLETED])
    with serve(valkey_url, tmp_path, more=more):
        wait_until(lambda: len(receiver.requests) == 1, "the webhook that was left")
        wait_until(lambda: connection.zcard(DUE_KEY) == 0, "its delivery")
        receiver.go_on.clear()
        worker.end(worker.claim(jobs[1]), OUTCOMES[State.COMPLETED])
        wait_until(lambda: len(receiver.requests) == 2, "the webhook that came")
        began = time.monotonic()
    assert time.monotonic() - began < 8
    ((_, due_at),) = connection.zrange(DUE_KEY, 0, -1, withscores=True)
    assert due_at <= time.time()
    receiver.go_on.set()
    (tmp_path / "second").mkdir()
    with serve(valkey_url, tmp_path / "second", more=more):
        wait_until(lambda: connection.zcard(DUE_KEY) == 0, "the delivery by the next server")
    ids = [request.headers["webhook-id"].replace("evt_", "job_") for request in receiver.requests]
    assert ids == [jobs[0], jobs[1], jobs[1]]


@pytest.mark.parametrize("background", [True, False])
def test_a_response_may_have_a_webhook(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver, background: bool
) -> None:
    """As its request says, in our own field; by the client's own secret."""
    webhook = {"url": receiver.url, "secret": CLIENTS}
    with worker.answering():
        answer = client.post(
            "/v1/responses",
            json={"model": MODEL, "input": "a", "background": background, "webhook": webhook},
        )
        assert answer.status_code == 200, answer.data
        name = answer.get_json()["id"]
        wait_until(lambda: here.lifecycle.connection.zcard(DUE_KEY), "its end is due")
    send(here)
    event = unwrap(receiver.requests[0], CLIENTS)
    assert (event.type, event.data.id) == ("response.completed", name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"webhook": "https://10.0.0.1/h"}, "webhook.url"),
        ({"webhook": "https://hooks.example/h", "store": False}, "webhook"),
    ],
)
def test_a_responses_webhook_must_make_sense(
    client: FlaskClient, worker: PretendWorker, fields: dict[str, Any], param: str
) -> None:
    """It can be sent, and who is told can fetch the response."""
    answer = client.post("/v1/responses", json={"model": MODEL, "input": "a"} | fields)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)
    assert client.get("/v1/jobs").get_json()["data"] == []


def begin_batch(client: FlaskClient, data: bytes, webhook: object) -> TestResponse:
    """Begin a batch of responses over a file; the answer."""
    form = {"purpose": "batch", "file": (io.BytesIO(data), "lines.jsonl")}
    file_id = client.post("/v1/files", data=form).get_json()["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/responses", "completion_window": "24h"}
    return client.post("/v1/batches", json=body | {"webhook": webhook})


def test_a_batch_may_have_a_webhook(
    here: Services, client: FlaskClient, worker: PretendWorker, receiver: Receiver
) -> None:
    """Told once, however the batch ended; a client sees how that stands. A line may have none of its own."""
    body = {"model": MODEL, "input": "a"}
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/responses", "body": body | more}
        for number, more in enumerate(({}, {"webhook": receiver.url}))
    ]
    with worker.answering():
        answers = [
            begin_batch(client, data, receiver.url)
            for data in ("\n".join(map(json.dumps, lines)).encode(), b"no line")
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].get_json()["webhook"] == {"status": "waiting", "attempts": 0, "last_error": None}
        wait_until(lambda: here.lifecycle.connection.zcard(DUE_KEY) == 2, "both ends are due", 20)
    send(here)
    events = {(event.type, event.data.id) for event in map(unwrap, receiver.requests)}
    ids = [answer.get_json()["id"] for answer in answers]
    assert events == {("batch.completed", ids[0]), ("batch.failed", ids[1])}
    seen = client.get(f"/v1/batches/{ids[0]}").get_json()
    assert seen["webhook"] == {"status": "delivered", "attempts": 1, "last_error": None}
    error = client.get(f"/v1/files/{seen['error_file_id']}/content").get_json(force=True)
    assert error["response"]["body"]["error"]["param"] == "webhook"


def test_a_batchs_webhook_that_could_not_be_sent_is_refused(client: FlaskClient) -> None:
    """With its batch."""
    answer = begin_batch(client, b"{}", "https://10.0.0.1/h")
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "webhook.url")
    assert client.get("/v1/batches").get_json()["data"] == []
