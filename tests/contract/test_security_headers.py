"""What answers say of themselves and of the server: nothing that helps somebody who was not let in."""

from __future__ import annotations

import statistics
import time
from typing import Final

import httpx
import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.keys import bearer, make_key
from tests.pretend_worker import PretendWorker

PATHS: Final = (
    "/v1/jobs",
    "/v1/nothing",
    "/nothing",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/docs",
    "/v1/files/x/content",
)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_private_and_no_page_of_others(url: str, connection: Redis, path: str) -> None:
    """Not stored by a cache, not sniffed, not framed, no scripts; no cookie, and no version of any software."""
    said = httpx.get(f"{url}{path}", trust_env=False)
    assert said.headers["Cache-Control"] == "no-store"
    assert said.headers["X-Content-Type-Options"] == "nosniff"
    policy = said.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script" not in policy
    assert "Set-Cookie" not in said.headers
    assert not any(letter.isdigit() for letter in said.headers.get("Server", ""))
    assert "X-Powered-By" not in said.headers


def test_a_queue_that_is_away_is_told_without_its_address(settings: Settings) -> None:
    """Its URL may have a password."""
    away = settings.model_copy(update={"redis_url": "redis://:zanzibar@127.0.0.1:1/0"})
    client = create_app(away).test_client()
    for method, path in (("GET", "/v1/jobs"), ("GET", "/readyz"), ("POST", "/v1/jobs")):
        said = client.open(
            path, method=method, json={"model": MODEL, "prompt": "a"} if method == "POST" else None
        )
        assert said.status_code == 503
        assert "zanzibar" not in said.text
        assert "127.0.0.1" not in said.text


def test_a_fault_is_told_without_a_path_or_a_traceback(client: FlaskClient, connection: Redis) -> None:
    """Whatever it is; the log has it."""
    connection.set("tidegate:jobs", "no sorted set")
    said = client.get("/v1/jobs")
    connection.delete("tidegate:jobs")
    assert said.status_code >= 500
    assert "Traceback" not in said.text
    assert ".py" not in said.text
    assert "WRONGTYPE" not in said.text


def test_anothers_job_takes_as_long_as_none(
    client: FlaskClient, connection: Redis, worker: PretendWorker
) -> None:
    """Within what the machine's own unrest makes of it: its record is looked for either way, and no more is done."""
    ann, bob = (bearer(make_key(connection)[0]) for _ in range(2))
    job = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers=ann).get_json()["id"]
    took: dict[str, list[float]] = {job: [], "job_" + "0" * 26: []}
    for _ in range(60):
        for name, seconds in took.items():
            began = time.perf_counter()
            assert client.get(f"/v1/jobs/{name}", headers=bob).status_code == 404
            seconds.append(time.perf_counter() - began)
    theirs, none = (statistics.median(each) for each in took.values())
    assert theirs < 5 * none + 0.005
    assert none < 5 * theirs + 0.005


def test_open_is_not_open_to_pages(settings: Settings, connection: Redis) -> None:
    """`TIDEGATE_OPEN` lets an API listen elsewhere; by which name it is called stays this machine's own."""
    client = create_app(
        settings.model_copy(update={"open": True, "host": "0.0.0.0"}), connection
    ).test_client()
    assert client.get("/v1/jobs", headers={"Host": "localhost:8400"}).status_code == 200
    assert client.get("/v1/jobs", headers={"Host": "rebound.example:8400"}).status_code == 403
