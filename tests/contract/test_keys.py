"""API keys at the API: who is let in, and what each may see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import Application, create_app
from api.gate import EXPOSED
from scheduler import fleet
from scheduler.errors import SettingsInvalid
from scheduler.keyring import KeyBook
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.keys import bearer, make_key
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

BODY = {"model": MODEL, "prompt": "a", "max_tokens": 10}
OPEN = {"/", "/healthz", "/readyz", "/openapi.json", "/docs"}


def code(answer: Any) -> tuple[int, str]:
    """An error's status and code."""
    return answer.status_code, answer.get_json()["error"]["code"]


def submit(client: FlaskClient, token: str, **fields: Any) -> str:
    """Submit a job with a key; its id."""
    answer = client.post("/v1/jobs", json=BODY | fields, headers=bearer(token))
    assert answer.status_code == 202, answer.text
    return str(answer.get_json()["id"])


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "Basic YTpi"}, bearer("tg-wrong"), bearer("")],
    ids=["none", "empty", "basic", "wrong", "blank"],
)
def test_every_route_but_four_needs_a_key(
    app: Application, client: FlaskClient, connection: Redis, headers: dict[str, str]
) -> None:
    """401 before anything else is looked at: the path, the method, the body, whether the job is there."""
    make_key(connection)
    tried = 0
    for rule in app.url_map.iter_rules():
        path = (
            str(rule).replace("<job_id>", "job_" + "0" * 26).replace("<path:model_id>", "m").replace("<", "x")
        )
        for method in (rule.methods or set()) | {"PATCH"}:
            answer = client.open(path, method=method, headers=headers)
            if str(rule) not in OPEN and str(rule).startswith(("/v1", "/metrics")):
                tried += 1
                assert answer.status_code == 401, (method, path)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert answer.headers["x-should-retry"] == "false"
                if method != "HEAD":
                    assert code(answer) == (401, "unauthorized")
            else:
                assert answer.status_code != 401, (method, path)
    assert tried > 20
    assert client.get("/v1", headers=headers).status_code == 401
    assert client.get("/v1/nowhere", headers=headers).status_code == 401


def test_what_says_nothing_of_jobs_stays_open(client: FlaskClient, connection: Redis) -> None:
    """Probes and readers of the document have no key."""
    make_key(connection)
    assert {client.get(path).status_code for path in OPEN} == {200}


def test_a_key_lets_its_bearer_in(client: FlaskClient, connection: Redis) -> None:
    """However the scheme is written."""
    token, _ = make_key(connection)
    for header in (f"Bearer {token}", f"bearer  {token} "):
        assert client.get("/v1/jobs", headers={"Authorization": header}).status_code == 200


def test_a_removed_key_stops_working_and_the_last_one_opens_loopback_again(
    client: FlaskClient, connection: Redis
) -> None:
    """Both within a second or so."""
    (token, key), (other, last) = make_key(connection), make_key(connection)
    assert client.get("/v1/jobs", headers=bearer(token)).status_code == 200
    KeyBook(connection).remove(key.owner)
    wait_until(lambda: client.get("/v1/jobs", headers=bearer(token)).status_code == 401, "removed", 3)
    assert client.get("/v1/jobs", headers=bearer(other)).status_code == 200
    KeyBook(connection).remove(last.owner)
    wait_until(lambda: client.get("/v1/jobs").status_code == 200, "open", 3)


def test_the_first_key_shuts_the_door(client: FlaskClient, connection: Redis) -> None:
    """Within a second or so; any token was good before, none but the key's is then."""
    assert client.get("/v1/jobs", headers=bearer("sk-anything")).status_code == 200
    token, _ = make_key(connection)
    wait_until(lambda: client.get("/v1/jobs", headers=bearer("sk-anything")).status_code == 401, "shut", 3)
    assert client.get("/v1/jobs", headers=bearer(token)).status_code == 200


def test_an_expired_key_is_told_when_it_expired(client: FlaskClient, connection: Redis) -> None:
    """401, not retryable; it still keeps the door shut."""
    token, _ = make_key(connection, expires_at=1_000_000_000)
    answer = client.get("/v1/jobs", headers=bearer(token))
    assert code(answer) == (401, "unauthorized")
    assert "2001-09-09" in answer.get_json()["error"]["message"]
    assert client.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "?wait=1"), ("GET", "/result"), ("GET", "/stream"), ("POST", "/cancel")],
)
def test_anothers_job_is_not_there(client: FlaskClient, connection: Redis, method: str, path: str) -> None:
    """404 with the very body of a job that never was; it is untouched, and its owner sees it."""
    (ann, _), (bob, _) = make_key(connection), make_key(connection)
    job_id = submit(client, ann)
    missing = job_id[:-4] + ("0000" if job_id[-4:] != "0000" else "1111")
    answers = [
        client.open(f"/v1/jobs/{each}{path}", method=method, headers=bearer(bob))
        for each in (job_id, missing)
    ]
    assert [code(answer) for answer in answers] == [(404, "not_found")] * 2
    assert answers[0].get_data(as_text=True).replace(job_id, missing) == answers[1].get_data(as_text=True)
    assert client.get(f"/v1/jobs/{job_id}", headers=bearer(ann)).get_json()["status"] == "queued"


def test_a_list_has_ones_own_jobs(client: FlaskClient, connection: Redis) -> None:
    """Each its own; an operator's key has all, and may cancel them."""
    (ann, _), (bob, _), (operator, _) = (
        make_key(connection),
        make_key(connection),
        make_key(connection, sees_all=True),
    )
    jobs = {token: submit(client, token) for token in (ann, bob)}

    def listed(token: str) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", headers=bearer(token)).get_json()["data"]]

    assert [listed(ann), listed(bob)] == [[jobs[ann]], [jobs[bob]]]
    assert sorted(listed(operator)) == sorted(jobs.values())
    ended = client.post(f"/v1/jobs/{jobs[ann]}/cancel", headers=bearer(operator))
    assert (ended.status_code, ended.get_json()["status"]) == (200, "cancelled")


def test_without_keys_everybody_sees_everything(client: FlaskClient, connection: Redis) -> None:
    """A token names a share then, and nothing else."""
    job_id = submit(client, "sk-ann")
    assert client.get(f"/v1/jobs/{job_id}", headers=bearer("sk-bob")).status_code == 200


def test_models_that_a_key_may_not_use_are_not_there(client: FlaskClient, connection: Redis) -> None:
    """A client that takes the first one listed takes one that it may use; another is forbidden to submit to."""
    (token, _), (free, _) = make_key(connection, models=("another",)), make_key(connection)
    assert client.get("/v1/models", headers=bearer(token)).get_json()["data"] == []
    hidden = client.get(f"/v1/models/{MODEL}", headers=bearer(token))
    assert code(hidden) == (404, "model_not_found")
    assert hidden.get_json()["error"]["message"].endswith("; none is")
    assert client.get(f"/v1/models/{MODEL}", headers=bearer(free)).status_code == 200
    answer = client.post("/v1/jobs", json=BODY, headers=bearer(token))
    assert code(answer) == (403, "forbidden")
    assert answer.get_json()["error"]["param"] == "model"
    neither = client.post("/v1/jobs", json=BODY | {"model": "another"}, headers=bearer(token))
    assert code(neither) == (404, "model_not_found")
    assert MODEL not in neither.text


def test_capacity_tells_of_the_models_that_a_key_may_use(
    client: FlaskClient, connection: Redis, worker: PretendWorker
) -> None:
    """Of no others, by any of its fields; how well the worker foresees is no model's own."""
    worker.report(footprint_ratios={"max": 1.5})
    (token, _), (free, _) = make_key(connection, models=("another",)), make_key(connection)
    assert MODEL in client.get("/v1/capacity", headers=bearer(free)).text
    bounded = client.get("/v1/capacity", headers=bearer(token))
    assert MODEL not in bounded.text
    assert [each["footprint_ratios"] for each in bounded.get_json()["workers"]] == [{"max": 1.5}]


def test_capacity_names_no_model_that_is_made_ready_to_a_key_that_may_not_use_it(
    client: FlaskClient, connection: Redis, worker: PretendWorker
) -> None:
    """It says what the engine does, and of which model to those who may use that."""
    (token, _), (free, _) = make_key(connection, models=("another",)), make_key(connection)
    fleet.report(connection, replace(worker.report(), engine=f"measuring {MODEL}"), 60.0)
    said = [client.get("/v1/capacity", headers=bearer(each)).get_json() for each in (token, free)]
    engines = [each["workers"][0]["engine"] for each in said]
    assert engines == ["measuring another model", f"measuring {MODEL}"]


def test_what_is_left_of_a_minutes_tokens_is_said(client: FlaskClient, connection: Redis) -> None:
    """In OpenAI's headers, on what was accepted and on what was not; no other key has them."""
    (token, _), (free, _) = make_key(connection, tokens_per_minute=20), make_key(connection)
    accepted = client.post("/v1/jobs", json=BODY, headers=bearer(token))
    assert accepted.headers["x-ratelimit-limit-tokens"] == "20"
    assert 9 <= int(accepted.headers["x-ratelimit-remaining-tokens"]) <= 10
    answer = client.post("/v1/jobs", json=BODY | {"max_tokens": 18}, headers=bearer(token))
    assert code(answer) == (429, "rate_limit_exceeded")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["x-ratelimit-limit-tokens"] == "20"
    assert float(answer.headers["x-ratelimit-reset-tokens"].removesuffix("s")) <= 60
    other = client.post("/v1/jobs", json=BODY, headers=bearer(free))
    assert [name for name, _ in other.headers if "ratelimit" in name] == []


def test_a_chat_is_bound_by_its_key_too(
    client: FlaskClient, connection: Redis, worker: PretendWorker
) -> None:
    """Whatever route a job comes by."""
    token, _ = make_key(connection, priorities=("batch",))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
    answer = client.post("/v1/chat/completions", json=body, headers=bearer(token))
    assert code(answer) == (403, "forbidden")
    assert answer.get_json()["error"]["param"] == "priority"


def test_a_key_that_may_not_use_the_class_begins_no_batch(client: FlaskClient, connection: Redis) -> None:
    """403 at once, and not line by line."""
    token, _ = make_key(connection, priorities=("interactive",))
    body = {"input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "24h"}
    answer = client.post("/v1/batches", json=body, headers=bearer(token))
    assert code(answer) == (403, "forbidden")
    assert "may not submit batch jobs" in answer.get_json()["error"]["message"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8400", "localhost", "LOCALHOST:1", "[::1]:8400", "a.localhost:80"]
)
def test_without_keys_this_machines_names_are_answered(
    client: FlaskClient, connection: Redis, host: str
) -> None:
    """With or without a port."""
    assert client.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8400",
        "127.0.0.1.evil.example",
        "0.0.0.0:8400",
        "10.0.0.7",
        "localhost@evil",
    ],
)
def test_without_keys_no_other_name_is(client: FlaskClient, connection: Redis, host: str) -> None:
    """A page whose name was made to resolve to 127.0.0.1 reads nothing; with a key any name will do."""
    answer = client.get("/v1/jobs", headers={"Host": host})
    assert code(answer) == (403, "forbidden")
    assert "tidegate keys add" in answer.get_json()["error"]["message"]
    assert client.get("/readyz", headers={"Host": host}).status_code == 200
    token, _ = make_key(connection)
    wait_until(
        lambda: client.get("/v1/jobs", headers={"Host": host} | bearer(token)).status_code == 200,
        "the key counts",
        3,
    )


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://", "["]
)
def test_without_keys_a_page_from_elsewhere_does_nothing(
    client: FlaskClient, connection: Redis, origin: str
) -> None:
    """A form may send what a script may not read the answer of; a page of this machine's may."""
    job_id = submit(client, "sk-ann")
    answer = client.post(f"/v1/jobs/{job_id}/cancel", headers={"Origin": origin})
    assert code(answer) == (403, "forbidden")
    own = client.post(f"/v1/jobs/{job_id}/cancel", headers={"Origin": "http://localhost:3000"})
    assert own.get_json()["status"] == "cancelled"


def exposed(settings: Settings, connection: Redis, **changes: Any) -> Application:
    """An application that listens on all of a machine's addresses."""
    return create_app(settings.model_copy(update={"host": "0.0.0.0"} | changes), connection)


def test_an_api_that_others_may_reach_is_never_open(settings: Settings, connection: Redis) -> None:
    """Without keys it does not start; and should the last one be removed, nobody is let in."""
    app = exposed(settings, connection)
    client = app.test_client()
    assert code(client.get("/v1/jobs")) == (401, "unauthorized")
    with pytest.raises(SettingsInvalid, match="`tidegate keys add`"):
        app.listen_on(["127.0.0.1", "0.0.0.0"])
    token, key = make_key(connection)
    app = exposed(settings, connection)
    app.listen_on(["0.0.0.0"])
    client = app.test_client()
    assert client.get("/v1/jobs", headers=bearer(token) | {"Host": "queue.example"}).status_code == 200
    KeyBook(connection).remove(key.owner)
    wait_until(lambda: client.get("/v1/jobs", headers=bearer(token)).status_code == 401, "removed", 3)
    assert client.get("/v1/jobs").status_code == 401


def test_where_it_really_listens_is_what_counts(settings: Settings, connection: Redis) -> None:
    """Not what a setting says that the server did not follow."""
    app = create_app(settings, connection)
    app.listen_on([])  # a Unix socket
    assert app.config[EXPOSED] is False
    with pytest.raises(SettingsInvalid):
        app.listen_on(["192.0.2.1"])
    assert app.test_client().get("/v1/jobs").status_code == 401


def test_an_operator_may_leave_it_open_on_purpose(settings: Settings, connection: Redis) -> None:
    """As behind a container's port that is published on loopback; the name that is asked for still counts."""
    app = exposed(settings, connection, open=True)
    app.listen_on(["0.0.0.0"])
    client = app.test_client()
    assert client.get("/v1/jobs", headers={"Host": "127.0.0.1:8400"}).status_code == 200
    assert client.get("/v1/jobs", headers={"Host": "evil.example"}).status_code == 403
    make_key(connection)
    wait_until(lambda: client.get("/v1/jobs").status_code == 401, "the key counts", 3)


def test_no_token_is_kept_or_said_again(
    client: FlaskClient, connection: Redis, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in the store, an answer or the log."""
    token, _ = make_key(connection, name="ann")
    submit(client, token)
    said = (
        client.get("/v1/jobs", headers=bearer(token + "x")).text
        + client.get("/v1/jobs", headers=bearer(token)).text
    )
    dumps = b"".join((connection.dump(each) or b"") + each for each in connection.scan_iter())
    captured = capfd.readouterr()
    assert token[11:] not in said + captured.out + captured.err
    assert token[11:].encode() not in dumps
