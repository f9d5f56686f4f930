"""Capacity, models, health, the index and the OpenAPI document."""

from __future__ import annotations

import json
import subprocess
import sys

from flask.testing import FlaskClient
from redis import Redis

from api.app import Application
from api.schemas import Capacity, ModelAnswer, ModelList
from tests.conftest import MODEL
from tests.pretend_worker import CARD, GIB, PretendWorker


def test_capacity_tells_every_worker_and_the_queue(client: FlaskClient, worker: PretendWorker) -> None:
    """Budget, what is used of it, models with their cards, and what waits in jobs and tokens."""
    job = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a", "max_tokens": 10}).get_json()
    said = Capacity.model_validate(client.get("/v1/capacity").json)
    (found,) = said.workers
    assert (found.name, found.pid, found.budget_bytes, found.running) == ("pretend", 1, GIB, 0)
    assert found.weights_bytes + found.reserved_bytes + found.cache_bytes + found.headroom_bytes == GIB
    (model,) = found.models
    assert (model.id, model.card) == (MODEL, json.loads(json.dumps(CARD.to_json())))
    assert said.queue.jobs == 1
    assert said.queue.tokens > 10
    client.post(f"/v1/jobs/{job['id']}/cancel")


def test_capacity_without_workers(client: FlaskClient, connection: Redis) -> None:
    """An empty fleet is an answer."""
    said = Capacity.model_validate(client.get("/v1/capacity").json)
    assert (said.workers, said.queue.jobs, said.queue.tokens) == ([], 0, 0)


def test_models_say_whether_they_are_ready(client: FlaskClient, connection: Redis) -> None:
    """Listed by the operator, but ready only where a live worker serves them."""
    (model,) = ModelList.model_validate(client.get("/v1/models").json).data
    assert (model.id, model.ready) == (MODEL, False)


def test_a_model_is_ready_with_its_worker(client: FlaskClient, worker: PretendWorker) -> None:
    """One model, looked at by its name."""
    assert ModelAnswer.model_validate(client.get(f"/v1/models/{MODEL}").json).ready


def test_ready_says_whether_anyone_can_run_jobs(client: FlaskClient, connection: Redis) -> None:
    """Ready to take jobs without a worker; the number tells."""
    assert client.get("/readyz").get_json() == {"status": "ready", "live_workers": 0}
    PretendWorker(connection).report()
    assert client.get("/readyz").get_json() == {"status": "ready", "live_workers": 1}
    assert client.get("/healthz").status_code == 200


def test_the_index_leads_to_what_exists(client: FlaskClient, connection: Redis) -> None:
    """Every address in it answers to GET, or says which method it wants."""
    for name, path in client.get("/").get_json().items():
        if name != "name":
            assert client.get(path).status_code in {200, 405}, path


def test_the_openapi_document_has_every_route(
    app: Application, client: FlaskClient, connection: Redis
) -> None:
    """OpenAPI 3.1, with the models that validate, and every route under /v1."""
    document = client.get("/openapi.json").get_json()
    assert document["openapi"].startswith("3.1")
    routes = {
        str(rule).replace("<path:", "<") for rule in app.url_map.iter_rules() if str(rule).startswith("/v1")
    }
    assert {path.replace("{", "<").replace("}", ">") for path in document["paths"]} == routes
    schemas = document["components"]["schemas"]
    assert {"JobRequest", "ChatRequest", "JobAnswer", "ErrorAnswer"} <= set(schemas)
    for path in document["paths"].values():
        for operation in path.values():
            for status in ("400", "4XX", "5XX"):
                content = operation["responses"][status]["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}


def test_importing_the_application_does_nothing_and_loads_no_engine() -> None:
    """No thread, no MLX, no worker."""
    code = (
        "import sys, threading, api.app\n"
        "assert threading.active_count() == 1\n"
        "assert not {'mlx', 'mlx_lm', 'workers', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
