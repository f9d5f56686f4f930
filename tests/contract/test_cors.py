"""Pages in browsers: those of the named origins, and nobody else."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from scheduler.errors import SettingsInvalid
from scheduler.settings import Settings, load
from tests.conftest import MODEL
from tests.keys import bearer, make_key

CHAT = "https://chat.example"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os, x-stainless-new-one, x-evil, traceparent",
}


def browser(settings: Settings, connection: Redis, *origins: str) -> FlaskClient:
    """A client of an API that such pages may use."""
    return create_app(settings.model_copy(update={"cors_origins": origins}), connection).test_client()


def allowed(header: str | None) -> set[str]:
    """The names in a header."""
    return {name.strip().lower() for name in (header or "").split(",")}


def test_without_origins_nothing_is_said(client: FlaskClient, connection: Redis) -> None:
    """Not to a preflight either."""
    for answer in (
        client.get("/v1/jobs", headers={"Origin": CHAT}),
        client.options("/v1/jobs", headers={"Origin": CHAT} | PREFLIGHT),
    ):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_a_named_origin_may_send_what_clients_send(settings: Settings, connection: Redis) -> None:
    """The preflight has no key, and needs none; whatever OpenAI's clients call themselves is allowed."""
    make_key(connection)
    client = browser(settings, connection, CHAT)
    answer = client.options("/v1/jobs", headers={"Origin": CHAT} | PREFLIGHT)
    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == CHAT
    assert {"get", "post", "delete"} <= allowed(answer.headers["Access-Control-Allow-Methods"])
    names = allowed(answer.headers["Access-Control-Allow-Headers"])
    assert {"authorization", "content-type", "idempotency-key", "last-event-id", "prefer"} <= names
    assert {"x-stainless-os", "x-stainless-new-one", "traceparent"} <= names
    assert "x-evil" not in names
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" in answer.headers["Vary"]


def test_a_named_origin_may_read_answers_and_errors(settings: Settings, connection: Redis) -> None:
    """With the headers that say when to come back and which request it was."""
    token, _ = make_key(connection)
    client = browser(settings, connection, "https://other.example", CHAT)
    for headers, status in ((bearer(token), 200), ({}, 401)):
        answer = client.get("/v1/jobs", headers=headers | {"Origin": CHAT})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, CHAT)
        exposed = allowed(answer.headers["Access-Control-Expose-Headers"])
        assert {"x-request-id", "retry-after", "location", "idempotent-replayed"} <= exposed


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://chat.example.evil", "http://chat.example", "null"]
)
def test_another_origin_may_not(settings: Settings, connection: Redis, origin: str) -> None:
    """By scheme, host and port; and a shared cache does not give it another's answer."""
    client = browser(settings, connection, CHAT)
    for answer in (
        client.get("/v1/jobs", headers={"Origin": origin}),
        client.options("/v1/jobs", headers={"Origin": origin} | PREFLIGHT),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers["Vary"]


def test_any_origin_may_where_the_operator_says_so(settings: Settings, connection: Redis) -> None:
    """`*` is said as it is: nothing depends on who asks."""
    client = browser(settings, connection, "*")
    answer = client.post(
        "/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers={"Origin": "https://any.example"}
    )
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (202, "*")


def test_a_named_page_may_work_without_keys_on_loopback(settings: Settings, connection: Redis) -> None:
    """It was named; one that was not may not."""
    client = browser(settings, connection, CHAT)
    body = {"model": MODEL, "prompt": "a"}
    assert client.post("/v1/jobs", json=body, headers={"Origin": CHAT}).status_code == 202
    assert client.post("/v1/jobs", json=body, headers={"Origin": "https://evil.example"}).status_code == 403


def test_an_options_request_that_is_no_preflight_is_an_ordinary_one(
    settings: Settings, connection: Redis
) -> None:
    """It is asked for a key like any other."""
    make_key(connection)
    assert (
        browser(settings, connection, CHAT).options("/v1/jobs", headers={"Origin": CHAT}).status_code == 401
    )


@pytest.mark.parametrize(
    "bad", ["chat.example", "https://chat.example/", "https://", "https://a@b", "https://a b"]
)
def test_what_is_no_origin_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    """A page's address has a path; an origin has none, and would never match."""
    monkeypatch.setenv("TIDEGATE_CORS_ORIGINS", f"https://fine.example,{bad}")
    with pytest.raises(SettingsInvalid, match="TIDEGATE_CORS_ORIGINS="):
        load()
    monkeypatch.setenv("TIDEGATE_CORS_ORIGINS", " https://Fine.example:8443 , app://local,")
    assert load().cors_origins == ("https://fine.example:8443", "app://local")
