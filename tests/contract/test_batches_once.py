"""Batches that are asked for twice: by a key, and as OpenAI's client tries again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import EXTENSION, Services
from scheduler.settings import Settings
from tests.batching import CHAT, jsonl, line
from tests.conftest import MODEL
from tests.contract.test_files import upload

URL = "/v1/batches"
KEY = {"Idempotency-Key": "k-1"}
FIRST, AGAIN = ({"x-stainless-retry-count": count} for count in ("0", "1"))


@pytest.fixture
def body(here: Services, client: FlaskClient, connection: Redis) -> dict[str, Any]:
    """A request for a batch, which does not go on by itself."""
    here.feeder.wake = lambda: None
    file_id = upload(client, jsonl(line(0))).get_json()["id"]
    return {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}


def count(client: FlaskClient) -> int:
    """How many batches there are."""
    return len(client.get(URL).get_json()["data"])


def told(answer: TestResponse) -> tuple[str, bool]:
    """Which batch an answer is about, and whether it says that it was there before."""
    assert answer.status_code == 200, answer.text
    return answer.get_json()["id"], answer.headers.get("Idempotent-Replayed") == "true"


@pytest.mark.parametrize(("first", "again"), [(FIRST, AGAIN), (KEY, KEY)], ids=["tries", "key"])
def test_a_lost_answer_is_given_again(
    client: FlaskClient, body: dict[str, Any], first: dict[str, str], again: dict[str, str]
) -> None:
    """However the batch has gone on since, and though its file may be gone."""
    batch_id, replayed = told(client.post(URL, json=body, headers=first))
    assert not replayed
    assert told(client.post(URL, json=body, headers=again)) == (batch_id, True)
    client.post(f"{URL}/{batch_id}/cancel")
    client.application.extensions[EXTENSION].feeder.round()
    assert client.delete(f"/v1/files/{body['input_file_id']}").status_code == 200
    assert told(client.post(URL, json=body, headers=again)) == (batch_id, True)
    assert count(client) == 1


def test_first_tries_make_batches_of_their_own(client: FlaskClient, body: dict[str, Any]) -> None:
    """As does whoever counts nothing."""
    answers = [told(client.post(URL, json=body, headers=headers)) for headers in (FIRST, FIRST, {}, {})]
    assert len({batch_id for batch_id, _ in answers}) == 4


def test_a_key_that_names_something_else_is_refused(client: FlaskClient, body: dict[str, Any]) -> None:
    """422: another batch, a job, or a job where it named a batch."""
    told(client.post(URL, json=body, headers=KEY))
    others = [
        client.post(URL, json=body | {"metadata": {"a": "b"}}, headers=KEY),
        client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers=KEY),
    ]
    other_key = {"Idempotency-Key": "k-2"}
    client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers=other_key)
    others.append(client.post(URL, json=body, headers=other_key))
    assert [(each.status_code, each.get_json()["error"]["code"]) for each in others] == [
        (422, "idempotency_mismatch")
    ] * 3
    assert count(client) == 1


@pytest.mark.parametrize("said", [b"", b"x", b"\xff", b"0" * 32 + b" batch_" + b"0" * 26])
def test_a_record_that_others_wrote_names_nothing(
    client: FlaskClient, connection: Redis, body: dict[str, Any], said: bytes
) -> None:
    """A batch is made, unless it says that the key was used for something else."""
    told(client.post(URL, json=body, headers=KEY))
    (record,) = connection.scan_iter("tidegate:once:*")
    connection.set(record, said, keepttl=True)
    answer = client.post(URL, json=body, headers=KEY)
    assert answer.status_code == (422 if said.startswith(b"0") else 200)


def test_who_looked_before_the_other_made_it_finds_it(
    here: Services, client: FlaskClient, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that saw no batch one makes it: the other's swap fails, and it looks again."""
    real, others, came = here.batches._creation, list[TestResponse](), list[bool]()

    def late(*args: Any) -> Any:
        if not came:
            came.append(True)
            others.append(client.application.test_client().post(URL, json=body, headers=KEY))
        return real(*args)

    monkeypatch.setattr(here.batches, "_creation", late)
    mine = told(client.post(URL, json=body, headers=KEY))
    assert mine == (told(others[0])[0], True)
    assert count(client) == 1


def test_two_processes_make_one_batch_between_them(
    settings: Settings, connection: Redis, client: FlaskClient, body: dict[str, Any]
) -> None:
    """Whoever comes second is told of the first's."""
    apps = [create_app(settings, connection) for _ in range(2)]
    for app in apps:
        app.extensions[EXTENSION].feeder.wake = lambda: None
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(apps[place % 2].test_client().post, URL, json=body, headers=KEY) for place in range(8)
        ]
        answers = [told(each.result(20)) for each in asked]
    assert len({batch_id for batch_id, _ in answers}) == 1
    assert sorted(replayed for _, replayed in answers) == [False] + [True] * 7
    assert count(client) == 1
