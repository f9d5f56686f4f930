"""Refusals and failures: the right status, the right headers, one body, nothing said that should not be."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.schemas import ErrorAnswer
from api.services import Services
from api.store import SILENT_SECONDS
from scheduler.settings import Settings, load
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.valkey import valkey
from tests.waiting import wait_until

BODY = {"model": MODEL, "prompt": "a"}


def test_an_unknown_model_is_not_found(client: FlaskClient, connection: Redis) -> None:
    """404 `model_not_found`, by either name of the queue and in the list of models."""
    answers = [
        client.post("/v1/jobs", json=BODY | {"model": "other"}),
        client.post(
            "/v1/chat/completions", json={"model": "other", "messages": [{"role": "user", "content": "a"}]}
        ),
        client.get("/v1/models/some/other"),
    ]
    for answer in answers:
        error = ErrorAnswer.model_validate(answer.json).error
        assert (answer.status_code, error.code, error.param) == (404, "model_not_found", "model")
        assert answer.headers["x-should-retry"] == "false"
        assert error.message.endswith(f"is not served here; served: {MODEL}")


def test_a_job_that_never_fits_says_both_numbers(client: FlaskClient, worker: PretendWorker) -> None:
    """413 `memory_never_fits`; the words that make clients drop their history are not in it."""
    worker.report(budget_bytes=4 << 20)
    answer = client.post("/v1/jobs", json=BODY | {"max_tokens": 1_000_000})
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["retryable"]) == (413, "memory_never_fits", False)
    assert error["estimated_bytes"] > error["limit_bytes"] == 4 << 20
    assert answer.headers["x-should-retry"] == "false"
    assert not any(words in error["message"] for words in ("context length", "maximum context", "too long"))


def test_a_full_queue_says_when_to_come_back(settings: Settings, connection: Redis) -> None:
    """503 `queue_full` with Retry-After, the same in the body."""
    client = create_app(settings.model_copy(update={"max_queued_jobs": 1}), connection).test_client()
    assert client.post("/v1/jobs", json=BODY).status_code == 202
    answer = client.post("/v1/jobs", json=BODY)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (503, "queue_full")
    assert 1 <= int(answer.headers["Retry-After"]) == error["retry_after"] <= 120


def test_no_worker_is_said_where_the_operator_wants_it(settings: Settings, connection: Redis) -> None:
    """503 `no_worker` with Retry-After."""
    app = create_app(settings.model_copy(update={"queue_without_worker": False}), connection)
    answer = app.test_client().post("/v1/jobs", json=BODY)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "no_worker")
    assert answer.headers["Retry-After"]


def test_a_body_over_the_limit_is_refused(settings: Settings, connection: Redis) -> None:
    """413 `body_too_large`, with the limit and what sets it."""
    client = create_app(settings.model_copy(update={"max_body_bytes": 1000}), connection).test_client()
    answer = client.post("/v1/jobs", data=b" " * 1000, content_type="application/json")
    assert answer.status_code == 400
    answer = client.post("/v1/jobs", data=b" " * 1001, content_type="application/json")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["limit_bytes"]) == (413, "body_too_large", 1000)
    assert error["message"] == "the body is over the 1,000 bytes that are taken (TIDEGATE_MAX_BODY_BYTES)"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/jobs/", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
def test_unknown_routes_and_methods(
    client: FlaskClient, connection: Redis, method: str, path: str, status: int, code: str
) -> None:
    """The one body; 405 says what is allowed."""
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (status, code)
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/v1/job", "/v1/jobs/", "/v1/jobs/a/b", "/" + "x" * 5000])
def test_an_unknown_route_is_named(client: FlaskClient, connection: Redis, path: str) -> None:
    """As much of it as a line takes."""
    message = client.post(path).get_json()["error"]["message"]
    assert message == f"no such route: POST {path[:256]}"


def test_a_bug_says_nothing_of_itself(
    client: FlaskClient, here: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """500 `internal_error`, not retryable; neither the answer nor the log quotes the error."""

    def broken(*_: object) -> None:
        raise RuntimeError("a secret prompt")

    monkeypatch.setattr(type(here.lifecycle), "get", broken)
    answer = client.get("/v1/jobs/job_00000000000000000000000000")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-should-retry"] == "false"
    captured = capsys.readouterr()
    assert "secret" not in answer.text + captured.out + captured.err
    assert "RuntimeError" in captured.out + captured.err


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_server_that_does_not_answer_is_told_within_a_second(tmp_path: Path, how: str) -> None:
    """503 `store_unavailable` with Retry-After from every route that needs it; back when it is back."""
    with valkey(tmp_path) as (url, process):
        client = create_app(load(redis_url=url, models=(MODEL,))).test_client()
        assert client.get("/readyz").status_code == 200
        process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        if how == "killed":
            process.wait()
        for path in ("/readyz", "/v1/jobs/job_00000000000000000000000000", "/v1/capacity"):
            took = []
            for _ in range(3):
                began = time.monotonic()
                answer = client.get(path)
                took.append(time.monotonic() - began)
                code = answer.get_json()["error"]["code"]
                assert (answer.status_code, code) == (503, "store_unavailable"), path
                assert answer.headers["Retry-After"]
                time.sleep(1.5 * SILENT_SECONDS)  # meanwhile a silent one is not asked again
            assert min(took) < 1.2
        assert client.post("/v1/jobs", json=BODY).status_code == 503
        assert client.get("/healthz").status_code == 200
        if how == "frozen":
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: client.get("/readyz").status_code == 200, "the API is back", 5)


def test_a_server_that_takes_no_writes_is_unavailable(client: FlaskClient, connection: Redis) -> None:
    """503 `store_unavailable` with Retry-After; the job is taken when it takes writes again."""
    connection.config_set("min-replicas-to-write", 1)
    try:
        answer = client.post("/v1/jobs", json=BODY)
    finally:
        connection.config_set("min-replicas-to-write", 0)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "store_unavailable")
    assert answer.headers["Retry-After"]
    assert client.post("/v1/jobs", json=BODY).status_code == 202


def test_every_answer_has_a_request_id_and_is_not_sniffed(client: FlaskClient, connection: Redis) -> None:
    """Headers that every answer has, errors too; and no other origin is let in."""
    for path in ("/", "/healthz", "/nowhere", "/v1/jobs"):
        headers = client.get(path, headers={"Origin": "https://example.org"}).headers
        assert headers["x-request-id"].startswith("req_")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("path", "body", "meant"),
    [
        ("/v1/jobs", {"temprature": 1}, "temprature: there is no such field; is temperature meant?"),
        (
            "/v1/chat/completions",
            {"response_fromat": {}},
            "response_fromat: there is no such field; is response_format meant?",
        ),
        ("/v1/completions", {"sufix": ""}, "sufix: there is no such field; is suffix meant?"),
        ("/v1/responses", {"instruction": ""}, "instruction: there is no such field; is instructions meant?"),
    ],
)
def test_a_misspelt_field_is_told_with_the_one_that_is_meant(
    client: FlaskClient, path: str, body: dict[str, object], meant: str
) -> None:
    """Of that route's own fields."""
    usual = {"messages": [{"role": "user", "content": "a"}]} if "chat" in path else {"prompt": "a"}
    usual = {"input": "a"} if path == "/v1/responses" else usual
    answer = client.post(path, json={"model": MODEL} | usual | body)
    assert (answer.status_code, ErrorAnswer.model_validate(answer.json).error.message) == (400, meant)


def test_a_misspelt_word_of_a_query_is_told_so_too(client: FlaskClient) -> None:
    """By the words of that list, not by a job's fields."""
    assert "is status meant?" in client.get("/v1/jobs?stauts=queued").text
    assert "meant?" not in client.get("/v1/jobs?tempereture=1").text
