"""Capacity, models, health, the index and the OpenAPI document."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from flask.testing import FlaskClient
from redis import Redis

from api.capacity_schemas import Capacity
from api.openai_schemas import ModelAnswer, ModelList
from tests.conftest import MODEL
from tests.pretend_worker import CARD, GIB, PretendWorker


def test_capacity_tells_every_worker_and_the_queue(client: FlaskClient, worker: PretendWorker) -> None:
    """Budget, what is used of it, models with their cards, and what waits in jobs and tokens."""
    job = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a", "max_tokens": 10}).get_json()
    said = Capacity.model_validate(client.get("/v1/capacity").json)
    (found,) = said.workers
    assert (found.name, found.pid, found.budget_bytes, found.running) == ("pretend", 1, GIB, 0)
    assert found.weights_bytes + found.reserved_bytes + found.cache_bytes + found.headroom_bytes == GIB
    assert (found.working_bytes, found.cools_until) == (GIB, None)  # of a worker that does not say
    (model,) = found.models
    assert (model.id, model.card) == (MODEL, json.loads(json.dumps(CARD.to_json())))
    assert said.queue.jobs == 1
    assert said.queue.tokens > 10
    client.post(f"/v1/jobs/{job['id']}/cancel")


def test_capacity_tells_what_holds_a_worker_back(client: FlaskClient, worker: PretendWorker) -> None:
    """A working budget below the whole, and until when it cools down; never more than the budget."""
    worker.report(GIB, working_bytes=GIB // 2, engine="cooling down", cools_until=1_800_000_000.5)
    PretendWorker(worker.connection, "vain").report(GIB, working_bytes=2 * GIB)
    first, second = Capacity.model_validate(client.get("/v1/capacity").json).workers
    assert (first.working_bytes, first.cools_until) == (GIB // 2, 1_800_000_000.5)
    assert (second.working_bytes, second.cools_until) == (GIB, None)


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
    ready = {"status": "ready", "live_workers": 0, "cooling_workers": 0}
    assert client.get("/readyz").get_json() == ready
    PretendWorker(connection).report()
    assert client.get("/readyz").get_json() == ready | {"live_workers": 1}
    PretendWorker(connection, "hot").report(engine="cooling down", cools_until=time.time() + 20)
    assert client.get("/readyz").get_json() == ready | {"live_workers": 2, "cooling_workers": 1}
    assert client.get("/healthz").status_code == 200


def test_the_index_leads_to_what_exists(client: FlaskClient, connection: Redis) -> None:
    """Every address in it answers to GET, or says which method it wants."""
    for name, path in client.get("/").get_json().items():
        if name not in {"name", "version"}:
            assert client.get(path).status_code in {200, 405}, path


def test_importing_the_application_does_nothing_and_loads_no_engine() -> None:
    """No thread, no MLX, no worker."""
    code = (
        "import sys, threading, api.app\n"
        "assert threading.active_count() == 1\n"
        "assert not {'mlx', 'mlx_lm', 'workers', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
