"""The API over the test's server: in this process by Flask's client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import Application, create_app
from api.services import EXTENSION, Services
from scheduler.settings import Settings
from tests.pretend_worker import PretendWorker


@pytest.fixture
def app(settings: Settings, connection: Redis) -> Iterator[Application]:
    """The application."""
    made = create_app(settings, connection)
    yield made
    made.extensions[EXTENSION].reader.close()


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
