"""The API over the test's server: in this process by Flask's client, or as it is served by OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import Application, create_app
from api.services import EXTENSION, Services
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings
from tests.contract.served import serve
from tests.pretend_worker import PretendWorker


@pytest.fixture
def app(settings: Settings, connection: Redis) -> Iterator[Application]:
    """The application."""
    made = create_app(settings, connection)
    yield made
    made.extensions[EXTENSION].reader.close()
    made.extensions[EXTENSION].tide.close()
    made.extensions[EXTENSION].feeder.close()


@pytest.fixture
def here(app: Application) -> Services:
    """What its routes work with."""
    found: Services = app.extensions[EXTENSION]
    return found


@pytest.fixture
def client(app: Application) -> FlaskClient:
    """A client in this process."""
    return app.test_client()


@pytest.fixture
def worker(connection: Redis) -> PretendWorker:
    """A live worker that does what it is told."""
    pretend = PretendWorker(connection)
    pretend.report()
    return pretend


@pytest.fixture(scope="module")
def url(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the module."""
    with serve(valkey_url, tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    """The official client of that server."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
def lifecycle(connection: Redis, settings: Settings) -> Lifecycle:
    """The queue as the test looks at it."""
    return Lifecycle(connection, settings)
