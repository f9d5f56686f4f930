"""Asking for responses by Flask's client."""

from __future__ import annotations

from typing import Any, Final

from flask.testing import FlaskClient

from tests.conftest import MODEL
from tests.contract.streams import read
from tidegate.sse import ServerSentEvent

URL: Final = "/v1/responses"


def ask(client: FlaskClient, sent: Any = "a b", **fields: Any) -> Any:
    """Create a response."""
    return client.post(URL, json={"model": MODEL, "input": sent, **fields})


def background(client: FlaskClient, sent: Any = "a b", **fields: Any) -> str:
    """The id of a response in the background."""
    said = ask(client, sent, background=True, **fields).get_json()
    assert said["status"] == "queued", said
    return str(said["id"])


def followed(client: FlaskClient, name: str, **query: Any) -> list[ServerSentEvent]:
    """The events of a response's stream."""
    return read(client.get(f"{URL}/{name}", query_string={"stream": "true", **query}))


def job(name: str) -> str:
    """A response's job."""
    return f"job_{name.removeprefix('resp_')}"
