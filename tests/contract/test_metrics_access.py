"""Who may read `/metrics`, and when the queue's server is away."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from api.app import Application, create_app
from api.gate import EXPOSED
from api.services import EXTENSION, Services
from scheduler.settings import Settings
from scheduler.tally import Tally
from tests.conftest import MODEL
from tests.contract.test_metrics import scraped, value
from tests.keys import bearer, make_key
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until


def test_without_keys_only_this_machine_reads_it(client: FlaskClient) -> None:
    """A page whose name was made to mean this machine does not."""
    assert client.get("/metrics").status_code == 200
    refused = client.get("/metrics", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "forbidden")


def test_with_keys_a_key_is_needed_and_tells_of_its_models(
    settings: Settings, connection: Redis, worker: PretendWorker
) -> None:
    """As everywhere under /v1; what the key may not use it is not told of."""
    settings = settings.model_copy(update={"models": (MODEL, "other-model")})
    client, tally = create_app(settings, connection).test_client(), Tally()
    for model in (MODEL, "other-model", "not-listed"):
        tally.count("completion_tokens", model, by=9)
    worker.report(measures=tally.dump())
    (all_token, _), (one_token, _) = make_key(connection), make_key(connection, models=(MODEL,))
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=bearer("tg-wrong")).status_code == 401
    for token, seen in ((all_token, {MODEL, "other-model"}), (one_token, {MODEL})):
        family = scraped(client, **bearer(token))["tidegate_worker_completion_tokens"]
        assert {each.labels["model"] for each in family.samples} == seen


# Where the server is away


def test_while_the_server_is_away_the_api_tells_of_itself(settings: Settings) -> None:
    """It answers, says so, and shows its own counts; whom its keys let in last, they let in still."""
    app = create_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    client = app.test_client()
    assert client.get("/v1/jobs").status_code == 503
    metrics = scraped(client)
    assert value(metrics, "tidegate_api_store_up") == 0
    labels = {"route": "/v1/jobs", "method": "GET", "status": "503"}
    assert value(metrics, "tidegate_api_http_requests_total", **labels) == 1
    assert (value(metrics, "tidegate_api_store_failures_total", part="metrics") or 0) >= 1
    assert not metrics["tidegate_queue_jobs"].samples
    app.config[EXPOSED] = True
    refused = client.get("/metrics")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "store_unavailable")


def test_an_outage_lets_in_whom_the_keys_did_before(
    app: Application, client: FlaskClient, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody else; everything but metrics says that the server is away."""
    token, _ = make_key(connection)
    assert client.get("/v1/jobs", headers=bearer(token)).status_code == 200
    here: Services = app.extensions[EXTENSION]

    def gone(*_: Any, **__: Any) -> Any:
        raise RedisConnectionError

    monkeypatch.setattr(here.lifecycle.keys._connection, "execute_command", gone)
    wait_until(lambda: client.get("/v1/jobs", headers=bearer(token)).status_code == 503, "it is away", 5)
    assert client.get("/metrics", headers=bearer(token)).status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=bearer("tg-wrong")).status_code == 401
