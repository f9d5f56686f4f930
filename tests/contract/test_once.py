"""Submissions that come twice, over HTTP: by key, and as OpenAI's client tries again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import Application
from api.services import Services
from tests.conftest import MODEL
from tests.contract.streams import names, read
from tests.pretend_worker import PretendWorker

URL = "/v1/jobs"


def send(client: FlaskClient, key: str | None = "k-1", prompt: str = "a b", **how: Any) -> TestResponse:
    """Submit a job under a key."""
    headers = how.pop("headers", {}) | ({} if key is None else {"Idempotency-Key": key})
    return client.post(URL, json={"model": MODEL, "prompt": prompt, **how}, headers=headers)


def test_a_submission_sent_again_is_answered_with_its_job(client: FlaskClient, worker: PretendWorker) -> None:
    """202 while it waits and runs, 200 when it has ended; the header says that it was there."""
    first = send(client)
    assert (first.status_code, "Idempotent-Replayed" in first.headers) == (202, False)
    job_id = first.get_json()["id"]
    again = send(client)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.get_json() == first.get_json()
    assert again.headers["Location"] == f"/v1/jobs/{job_id}"
    held = worker.claim(job_id)
    assert send(client).get_json()["status"] == "in_progress"
    worker.complete(held, "hi")
    ended = send(client)
    assert (ended.status_code, ended.get_json()["result"]["text"]) == (200, "hi")
    assert len(client.get(URL).get_json()["data"]) == 1


def test_a_body_that_comes_in_chunks_is_a_body(client: FlaskClient, worker: PretendWorker) -> None:
    """No length is told of it before it is read, and it is compared all the same."""

    def send_chunked(prompt: str) -> TestResponse:
        return client.post(
            URL,
            input_stream=io.BytesIO(json.dumps({"model": MODEL, "prompt": prompt}).encode()),
            content_type="application/json",
            headers={"Idempotency-Key": "k-1", "Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True},
        )

    assert [send_chunked(prompt).status_code for prompt in ("a", "a", "b")] == [202, 202, 422]


def test_a_submission_sent_again_may_wait_or_be_streamed(client: FlaskClient, worker: PretendWorker) -> None:
    """How an answer is to come is said by headers, and is no part of the body."""
    job_id = send(client).get_json()["id"]
    with worker.answering():
        waited = send(client, headers={"Prefer": "wait=20"})
    assert (waited.status_code, waited.get_json()["id"]) == (200, job_id)
    assert waited.headers["Idempotent-Replayed"] == "true"
    streamed = send(client, headers={"Accept": "text/event-stream"})
    assert streamed.headers["Idempotent-Replayed"] == "true"
    assert names(read(streamed)) == ["queued", "started", "delta", "delta", "completed", "message"]


def test_another_body_under_the_same_key_is_refused(client: FlaskClient, worker: PretendWorker) -> None:
    """422, not to be retried, naming the header."""
    send(client)
    answer = send(client, prompt="b")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        422,
        "idempotency_mismatch",
        "Idempotency-Key",
    )
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "na\u00efve", "\x7f"])
def test_a_key_that_is_none_is_refused(client: FlaskClient, connection: Redis, key: str) -> None:
    """400, naming the header; no job is made."""
    answer = send(client, key)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", "Idempotency-Key")
    assert connection.dbsize() == 0


@pytest.mark.parametrize(
    "key", ["~", " inner space ", "x" * 255, '"quoted"', "8e03978e-40d5-43dd-bc93-6894a57f9324"]
)
def test_whatever_is_printed_is_a_key(client: FlaskClient, worker: PretendWorker, key: str) -> None:
    """Up to 255 characters."""
    assert send(client, key).get_json()["id"] == send(client, key).get_json()["id"]


def test_each_caller_has_keys_of_its_own(client: FlaskClient, worker: PretendWorker) -> None:
    """The same key of two callers names two jobs."""
    ids = {
        send(client, headers={"Authorization": f"Bearer {token}"}).get_json()["id"]
        for token in ("ann", "bob", "ann")
    }
    assert len(ids) == 2


class Losing(httpx.BaseTransport):
    """Loses the first so many answers on their way to the client; the requests arrive."""

    def __init__(self, app: Application, lose: int) -> None:
        self.inner = httpx.WSGITransport(app=app)
        self.lose = lose
        self.counts: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass it on."""
        self.counts.append(request.headers["x-stainless-retry-count"])
        answer = self.inner.handle_request(request)
        answer.read()
        if self.lose:
            self.lose -= 1
            raise httpx.ReadError("lost")
        return answer


@pytest.fixture
def losing(app: Application) -> Losing:
    """Loses two answers."""
    return Losing(app, 2)


@pytest.fixture
def sdk(losing: Losing, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    """OpenAI's own client behind it, which does not sleep between its tries."""
    monkeypatch.setattr(openai._base_client.SyncAPIClient, "_sleep_for_retry", lambda *_, **__: None)
    with httpx.Client(transport=losing) as http:
        yield openai.OpenAI(base_url="http://localhost/v1", api_key="k", max_retries=2, http_client=http)


def post(sdk: openai.OpenAI, **fields: Any) -> dict[str, Any]:
    """Submit a job by the client's own means, its retries among them."""
    found: Any = sdk.post("/jobs", body={"model": MODEL, "prompt": "a", **fields}, cast_to=object)  # type: ignore[arg-type]  # as its documentation has it
    return dict(found)


def test_openais_client_makes_one_job_however_many_answers_are_lost(
    sdk: openai.OpenAI, losing: Losing, here: Services, worker: PretendWorker
) -> None:
    """Its third try is answered with the job of the first."""
    job = post(sdk)
    assert losing.counts == ["0", "1", "2"]
    assert [rec.id for rec in here.lifecycle.page().records] == [job["id"]]


def test_openais_client_asks_twice_on_purpose(
    sdk: openai.OpenAI, losing: Losing, here: Services, worker: PretendWorker
) -> None:
    """The same body, no answer lost: two jobs."""
    losing.lose = 0
    assert post(sdk)["id"] != post(sdk)["id"]


def test_openais_client_tries_again_what_failed(
    sdk: openai.OpenAI, losing: Losing, here: Services, worker: PretendWorker
) -> None:
    """A failure that says so: each try is a job of its own, and the last failure is the client's."""
    losing.lose = 0
    with worker.answering(), pytest.raises(openai.InternalServerError) as caught:
        sdk.post(
            "/jobs",
            body={"model": MODEL, "prompt": "fail"},
            cast_to=object,  # type: ignore[arg-type]  # as above
            options={"headers": {"Prefer": "wait=20"}},
        )
    assert caught.value.code == "insufficient_memory"
    assert losing.counts == ["0", "1", "2"]
    assert len(here.lifecycle.page().records) == 3


def test_what_does_not_count_its_tries_is_not_taken_for_a_retry(
    client: FlaskClient, worker: PretendWorker
) -> None:
    """The same body from curl, or a count that is none."""
    counts: list[dict[str, str]] = [
        {},
        {},
        *({"x-stainless-retry-count": said} for said in ("x", "-1", "1" * 99, "")),
    ]
    ids = {send(client, None, headers=each).get_json()["id"] for each in counts}
    assert len(ids) == len(counts)


def test_a_key_goes_before_a_count(client: FlaskClient, worker: PretendWorker) -> None:
    """Who names a submission knows best."""
    first = send(client, headers={"x-stainless-retry-count": "0"}).get_json()["id"]
    assert send(client, "k-2", headers={"x-stainless-retry-count": "1"}).get_json()["id"] != first
    assert send(client, headers={"x-stainless-retry-count": "0"}).get_json()["id"] == first


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_waited_for_says_that_its_job_was_there(
    client: FlaskClient, worker: PretendWorker, route: str, fields: dict[str, Any], stream: bool
) -> None:
    """Whole or as a stream, on OpenAI's routes too."""
    body = {"model": MODEL, "stream": stream} | fields
    with worker.answering():
        answers = [client.post(route, json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        texts = [answer.text for answer in answers]
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]
    assert all(texts)
    assert len(client.get(URL).get_json()["data"]) == 1
