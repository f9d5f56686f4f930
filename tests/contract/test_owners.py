"""Whose share a job counts against: the request's bearer token, of which only a digest is kept."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.services import Services
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker

TOKEN = "sk-ann-and-nobody-else"
ANN = hashlib.sha256(TOKEN.encode()).hexdigest()[:16]


def owner(here: Services, client: FlaskClient, headers: dict[str, Any]) -> str:
    """Whose job it is that a request with such headers makes."""
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers=headers)
    assert answer.status_code == 202, answer.data
    return here.lifecycle.get((answer.json or {})["id"]).meta.owner


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"  BEARER   {TOKEN} "])
def test_a_bearer_token_names_the_owner(here: Services, client: FlaskClient, header: str) -> None:
    """By the first 16 digits of its SHA-256, however the scheme is written."""
    assert owner(here, client, {"Authorization": header}) == ANN


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer   "}]
    + [{"Authorization": value} for value in ("Basic YTpi", TOKEN, f"Token {TOKEN}")],
)
def test_without_a_bearer_token_a_job_is_nobodys(
    here: Services, client: FlaskClient, headers: dict[str, str]
) -> None:
    """Accepted all the same; all such jobs share one share."""
    assert owner(here, client, headers) == ""


def test_whatever_a_token_is_made_of_it_has_an_owner(here: Services, client: FlaskClient) -> None:
    """Letters beyond ASCII, spaces, very many: sixteen digits, each its own."""
    tokens = ("n\u00e4\u00ef", "two words", "x" * 5000)
    owners = {owner(here, client, {"Authorization": f"Bearer {token}"}) for token in tokens}
    assert len(owners) == len(tokens)
    assert {len(each) for each in owners} == {16}


def test_a_chats_job_has_an_owner_too(here: Services, client: FlaskClient, worker: PretendWorker) -> None:
    """OpenAI's clients always send a key."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a b"}]}
    with worker.answering():
        answer = client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    (rec,) = here.lifecycle.page().records
    assert rec.meta.owner == ANN


def test_a_token_is_kept_nowhere_and_shown_to_nobody(
    here: Services,
    client: FlaskClient,
    connection: Redis,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not in the store, not in a log; nor is the digest in what clients see of a job."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers=headers)
    bad = client.post("/v1/jobs", json={"model": MODEL, "prompt": 5}, headers=headers)
    assert bad.status_code == 400
    dumps = b"".join(connection.dump(key) or b"" for key in connection.scan_iter())
    assert ANN.encode() in dumps + b"".join(connection.scan_iter())
    assert TOKEN.encode() not in dumps
    said = capfd.readouterr()
    assert TOKEN not in caplog.text + said.out + said.err
    assert ANN not in answer.text + bad.text + client.get("/v1/jobs").text
