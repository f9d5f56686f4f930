"""What is one key's is not there for another: on every route that the application has, those of tomorrow among them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import EXTENSION
from api.sse import EVENT_STREAM
from scheduler.settings import Settings
from tests.batching import CHAT, answer_all, jsonl, line
from tests.conftest import MODEL
from tests.contract.test_files import upload
from tests.keys import bearer, make_key
from tests.pretend_worker import PretendWorker

PROMPT: Final = "a word of ann's alone"
QUERIES: Final = ("", "?wait=1", "?stream=true", "?stream=true&starting_after=0", "?after=0", "?limit=1")
NAMES_OF_NOTHING: Final = {"job_id": "job_", "response_id": "resp_", "file_id": "file-", "batch_id": "batch_"}

NOBODYS_OWN: Final = {"model_id"}
"""Path parameters that name nothing of a key's: what is served, which test_keys.py looks at."""

NAMED_IN_BODIES: Final[dict[str, tuple[str, ...]]] = {
    "/v1/jobs": (),
    "/v1/chat/completions": (),
    "/v1/completions": (),
    "/v1/files": (),
    "/v1/responses": ("previous_response_id", "input"),
    "/v1/batches": ("input_file_id",),
}
"""Routes that take a body, and its fields that name what a key has; a new route says here which it has."""


@dataclass(frozen=True)
class World:
    """Ann's things, by the name that paths have for them, and the keys."""

    client: FlaskClient
    things: dict[str, list[str]]
    ann: dict[str, str]
    bob: dict[str, str]
    operator: dict[str, str]

    @property
    def ids(self) -> list[str]:
        """Of all her things."""
        return [each for ids in self.things.values() for each in ids]


@pytest.fixture
def world(settings: Settings, connection: Redis, worker: PretendWorker) -> Iterator[World]:
    """A job that waits, one that ended, responses likewise, a batch and the files that it read and wrote."""
    app = create_app(settings, connection)
    here, client = app.extensions[EXTENSION], app.test_client()
    here.feeder.wake = lambda: None
    ann, bob, operator = (
        bearer(make_key(connection, sees_all=sees_all)[0]) for sees_all in (False, False, True)
    )

    def made(path: str, **body: Any) -> str:
        said = client.post(path, json={"model": MODEL} | body, headers=ann)
        assert said.status_code < 300, said.text
        return str(said.get_json()["id"])

    jobs = [made("/v1/jobs", prompt=PROMPT)]
    responses = [made("/v1/responses", input=PROMPT, background=True)]
    worker.complete(worker.claim(), PROMPT)
    worker.complete(worker.claim(), PROMPT)
    file_id = upload(client, jsonl(line(0, PROMPT), b"bad"), headers=ann).get_json()["id"]
    asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    batch = client.post("/v1/batches", json=asked, headers=ann).get_json()["id"]
    for _ in range(4):
        here.feeder.round()
        answer_all(worker)
    ended = client.get(f"/v1/batches/{batch}", headers=ann).get_json()
    assert ended["status"] == "completed"
    jobs.append(made("/v1/jobs", prompt=PROMPT))
    responses.append(made("/v1/responses", input=PROMPT, background=True))
    files = [file_id, ended["output_file_id"], ended["error_file_id"]]
    things = {"job_id": jobs, "response_id": responses, "file_id": files, "batch_id": [batch]}
    yield World(client, things, ann, bob, operator)
    here.reader.close()
    here.feeder.close()


def routes(client: FlaskClient) -> list[tuple[Rule, str]]:
    """Every route under `/v1`, with each of its methods."""
    app = client.application
    return [
        (rule, method)
        for rule in app.url_map.iter_rules()
        if str(rule).startswith("/v1")
        for method in (rule.methods or set()) - {"OPTIONS"}
    ]


def filled(rule: Rule, thing: str) -> str:
    """A route's path with a thing's id in it."""
    return re.sub(r"<(?:[a-z]+:)?[a-z_]+>", thing, str(rule))


def no_such(client: FlaskClient, method: str, path: str, who: dict[str, str]) -> TestResponse:
    """Ask as somebody; it must be as if nothing were there."""
    said = client.open(path, method=method, headers=who)
    assert said.status_code == 404 or ("?" in path and said.status_code == 400), (method, path, said.text)
    assert "ann" not in said.text
    return said


def test_on_every_route_a_strangers_thing_is_not_there(world: World) -> None:
    """By any method and query it is as if the id had never been given: the same answer to the letter."""
    tried = set[str]()
    for rule, method in routes(world.client):
        named = {str(name) for name in rule.arguments} - NOBODYS_OWN
        for name in named:
            nothing = NAMES_OF_NOTHING[name] + "0" * 26
            for thing in world.things[name]:
                for query in QUERIES if method == "GET" else QUERIES[:1]:
                    path, other = filled(rule, thing) + query, filled(rule, nothing) + query
                    said = no_such(world.client, method, path, world.bob)
                    never = no_such(world.client, method, other, world.bob)
                    assert said.text.replace(thing, nothing) == never.text, path
                    tried.add(f"{method} {rule}")
    assert len(tried) >= 18, sorted(tried)


def test_on_every_route_it_is_there_for_its_own_key_and_an_operators(world: World) -> None:
    """Else the test above would prove nothing."""
    for rule, method in routes(world.client):
        for name in {str(each) for each in rule.arguments} - NOBODYS_OWN:
            if method == "GET":
                for who in (world.ann, world.operator):
                    path = filled(rule, world.things[name][0])
                    assert world.client.get(path, headers=who).status_code == 200, path


def test_a_stranger_changed_nothing(world: World) -> None:
    """Whatever it tried, what waits goes on waiting, and every file is whole."""
    for rule, method in routes(world.client):
        for name in {str(each) for each in rule.arguments} - NOBODYS_OWN:
            for thing in world.things[name]:
                world.client.open(filled(rule, thing), method=method, headers=world.bob)
    job = world.client.get(f"/v1/jobs/{world.things['job_id'][1]}", headers=world.ann)
    assert job.get_json()["status"] == "queued"
    response = world.client.get(f"/v1/responses/{world.things['response_id'][1]}", headers=world.ann)
    assert response.get_json()["status"] == "queued"
    for file_id in world.things["file_id"]:
        assert world.client.get(f"/v1/files/{file_id}/content", headers=world.ann).status_code == 200


def told(client: FlaskClient, path: str, headers: dict[str, str]) -> str:
    """An answer's text; of a stream that has no end, its first event."""
    with client.get(path, headers=headers) as answer:
        return next(iter(answer.response)).decode() if answer.mimetype == EVENT_STREAM else answer.text


def test_every_list_has_ones_own_things_alone(world: World) -> None:
    """A list is any route without a name in its path; an operator's has everybody's."""
    listed = ""
    for rule, method in routes(world.client):
        if method == "GET" and not rule.arguments:
            said = told(world.client, str(rule), world.bob)
            assert not [each for each in world.ids if each in said], str(rule)
            listed += told(world.client, str(rule), world.operator)
    kinds = ("job_id", "file_id", "batch_id")
    assert [each for name in kinds for each in world.things[name] if each not in listed] == []


def test_every_route_with_a_body_has_been_asked_what_it_names(world: World) -> None:
    """What a body names is looked for among the key's own things."""
    for rule, method in routes(world.client):
        if method != "POST" or rule.arguments:
            continue
        fields = NAMED_IN_BODIES[str(rule)]
        for field in fields:
            for thing in world.ids:
                reference = [{"type": "item_reference", "id": f"msg_{thing.partition('_')[2]}_0"}]
                body = {
                    "/v1/responses": {"model": MODEL, "input": "a"},
                    "/v1/batches": {"endpoint": CHAT, "completion_window": "24h"},
                }[str(rule)] | {field: reference if field == "input" else thing}
                said = world.client.post(str(rule), json=body, headers=world.bob)
                assert said.status_code in {400, 404}, (body, said.text)
                assert "ann" not in said.text


def test_a_key_of_idempotency_is_its_callers(world: World) -> None:
    """The same one, with the same body, makes another key a job of its own; so do counted tries."""
    body = {"model": MODEL, "prompt": PROMPT}
    for again in ({"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}):
        first = {name: "0" if value == "1" else value for name, value in again.items()}
        anns = world.client.post("/v1/jobs", json=body, headers=world.ann | first).get_json()["id"]
        bobs = world.client.post("/v1/jobs", json=body, headers=world.bob | again)
        assert bobs.get_json()["id"] != anns
        assert "Idempotent-Replayed" not in bobs.headers
        assert world.client.post("/v1/jobs", json=body, headers=world.ann | again).get_json()["id"] == anns


def test_a_mismatch_under_anothers_key_is_none(world: World) -> None:
    """Which would tell that the key was used."""
    headers = {"Idempotency-Key": "k"}
    world.client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers=world.ann | headers)
    said = world.client.post("/v1/jobs", json={"model": MODEL, "prompt": "b"}, headers=world.bob | headers)
    assert said.status_code == 202
