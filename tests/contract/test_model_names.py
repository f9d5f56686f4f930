"""A client's `model` is looked up among those that are served, and is nothing else: no path, no key's part, no download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.key_leaks import leaks

NAMES: Final = (
    "../../etc/passwd",
    "/etc/passwd",
    "~/models/x",
    "file:///etc/passwd",
    "org/not-listed",
    f"{MODEL}/../{MODEL}",
    f"./{MODEL}",
    f"{MODEL}:other",
    f"{MODEL}\n",
    f" {MODEL}",
    f"{MODEL}\r\nSET x y",
    MODEL.upper(),
    MODEL.replace("e", "\u0435"),
    MODEL + "\u200b",
    "tidegate:keys",
    "*",
    "{0.__class__}",
    "%s",
    "org/listed@main",
    "listed=/etc",
)
OTHER_FIELDS: Final = (
    "adapter",
    "adapters",
    "lora",
    "draft_model",
    "tokenizer",
    "chat_template",
    "revision",
    "model_path",
)


@pytest.fixture
def client(settings: Settings, connection: Redis) -> Iterator[FlaskClient]:
    """Serves one model under a name of its own, and one by its id."""
    app = create_app(
        settings.model_copy(update={"models": (f"{MODEL}=/srv/models/secret", "org/listed")}), connection
    )
    yield app.test_client()
    app.extensions["tidegate"].reader.close()


def asked(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Every route that takes a model."""
    return [
        ("/v1/jobs", {"model": name, "prompt": "a"}),
        ("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "a"}]}),
        ("/v1/completions", {"model": name, "prompt": "a"}),
        ("/v1/responses", {"model": name, "input": "a"}),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_served_is_not_found(client: FlaskClient, connection: Redis, name: str) -> None:
    """On every route; nothing is made of it on the server, and where a served one lies is not told."""
    before = {*connection.scan_iter()}
    for path, body in asked(name):
        said = client.post(path, json=body)
        assert (said.status_code, said.get_json()["error"]["code"]) == (404, "model_not_found"), (
            path,
            said.text,
        )
        assert "/srv/models" not in said.text
    assert {*connection.scan_iter()} - before == set()
    assert leaks(connection) == []


@pytest.mark.parametrize("name", ["x" * 257, "x" * 10_000, "", "a\x00b", "\ud800", 5, None, ["a"], {"a": 1}])
def test_what_is_no_name_is_refused(client: FlaskClient, connection: Redis, name: Any) -> None:
    """400 before it is looked up."""
    for path, body in asked(name):
        assert client.post(path, json=body).status_code == 400, path


def test_a_models_own_page_is_by_its_name_too(client: FlaskClient, connection: Redis) -> None:
    """Its path may have slashes, and is looked up all the same."""
    assert client.get("/v1/models/org/listed").status_code == 200
    for path in ("../keys", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "srv/models/secret", "org/listed/"):
        said = client.get(f"/v1/models/{path}")
        assert said.status_code in {308, 404}, path
        assert "root:" not in said.text
    assert "/srv" not in client.get("/v1/models").text + client.get("/v1/capacity").text


@pytest.mark.parametrize("field", OTHER_FIELDS)
def test_no_other_field_names_files(client: FlaskClient, connection: Redis, field: str) -> None:
    """A job has none; OpenAI's routes take none either, or let it lie: no job is made with it."""
    said = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a", field: "/etc/passwd"})
    assert (said.status_code, said.get_json()["error"]["param"]) == (400, field)
    for path, body in asked(MODEL)[1:]:
        client.post(path, json=body | {field: "/etc/passwd", "max_tokens": 0})
    stored = b"".join(connection.dump(key) or b"" for key in connection.scan_iter())
    assert b"/etc/passwd" not in stored


@pytest.mark.parametrize("part", ["image_url", "input_image", "file", "input_file"])
def test_a_url_in_a_message_is_not_fetched(client: FlaskClient, connection: Redis, part: str) -> None:
    """Such a part is refused; nobody looks where it leads."""
    content = [{"type": part, part: {"url": "http://169.254.169.254/latest"}}]
    said = client.post("/v1/jobs", json={"model": MODEL, "messages": [{"role": "user", "content": content}]})
    assert said.status_code == 400
