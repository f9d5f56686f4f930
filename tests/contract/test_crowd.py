"""One key has so many requests open at once, and no more; another's do not count, nor do those that have ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import Application, create_app
from api.crowd import Crowd
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.keys import bearer, make_key

JOB: Final = {"model": MODEL, "prompt": "a"}


@pytest.fixture
def app(settings: Settings, connection: Redis) -> Iterator[Application]:
    """Two requests of a key at once."""
    made = create_app(settings.model_copy(update={"max_open_per_key": 2}), connection)
    yield made
    made.extensions["tidegate"].reader.close()
    made.extensions["tidegate"].feeder.close()


@pytest.fixture
def crowd(app: Application) -> Crowd:
    """What counts them."""
    found: Crowd = app.extensions["crowd"]
    return found


def test_a_keys_streams_take_up_its_places_and_no_others(
    client: FlaskClient, crowd: Crowd, connection: Redis
) -> None:
    """The third is refused by its code, as is any other request of the key; a stream that ends makes room."""
    ann, ben = (bearer(make_key(connection, name=name)[0]) for name in ("ann", "ben"))
    streams = [client.post("/v1/jobs", json=JOB | {"stream": True}, headers=ann) for _ in range(2)]
    assert [said.status_code for said in streams] == [200, 200]
    for refused in (client.post("/v1/jobs", json=JOB, headers=ann), client.get("/v1/jobs", headers=ann)):
        assert refused.status_code == 429
        assert refused.get_json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["Retry-After"] == "1"
    assert len(client.get("/v1/jobs", headers=ben).get_json()["data"]) == 0
    streams.pop().close()
    assert client.get("/v1/jobs", headers=ann).status_code == 200
    streams.pop().close()
    assert crowd.open == {}


def test_what_is_answered_leaves_whatever_the_answer(
    client: FlaskClient, crowd: Crowd, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is refused, is not there, or fails."""
    ann = bearer(make_key(connection)[0])
    for _ in range(3):
        assert client.get("/v1/jobs/none", headers=ann).status_code == 404
        assert client.get("/v1/nowhere", headers=ann).status_code == 404
        assert (
            client.post("/v1/jobs", data="{", content_type="application/json", headers=ann).status_code == 400
        )
        assert client.head("/v1/jobs", headers=ann).status_code in {200, 405}
    monkeypatch.setattr("scheduler.lifecycle.Lifecycle.page", lambda *_, **__: 1 // 0)
    for _ in range(3):
        assert client.get("/v1/jobs", headers=ann).status_code == 500
    assert crowd.open == {}


def test_without_keys_nothing_is_counted(client: FlaskClient, crowd: Crowd, connection: Redis) -> None:
    """Whoever calls is this machine's."""
    streams = [client.post("/v1/jobs", json=JOB | {"stream": True}) for _ in range(3)]
    assert [said.status_code for said in streams] == [200] * 3
    assert crowd.open == {}
    for each in streams:
        each.close()
