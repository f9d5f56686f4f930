"""Chats, completions and responses that come twice: their clients wait, and a second try finds what the first made."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api import attended, responses
from api.app import create_app
from api.services import EXTENSION, Services
from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
FORMS: Final[list[tuple[str, dict[str, Any]]]] = [
    (CHAT, {}),
    (CHAT, {"stream": True}),
    (COMPLETIONS, {}),
    (COMPLETIONS, {"stream": True}),
    (RESPONSES, {}),
    (RESPONSES, {"stream": True}),
    (RESPONSES, {"background": True}),
    (RESPONSES, {"background": True, "stream": True}),
]
ATTENDED: Final = FORMS[:6]
KEY: Final = {"Idempotency-Key": "k-1"}
FIRST, AGAIN = ({"x-stainless-retry-count": count} for count in ("0", "1"))


def named(form: tuple[str, dict[str, Any]]) -> str:
    """A form's name in reports."""
    return " ".join((form[0].removeprefix("/v1/"), *form[1]))


def send(
    client: FlaskClient,
    form: tuple[str, dict[str, Any]],
    headers: dict[str, str],
    text: str = "a b",
    **more: Any,
) -> TestResponse:
    """Ask one of the routes, in one of its forms."""
    path, fields = form
    said = {
        CHAT: {"messages": [{"role": "user", "content": text}]},
        COMPLETIONS: {"prompt": text},
        RESPONSES: {"input": text},
    }[path]
    return client.post(path, json={"model": MODEL} | said | fields | more, headers=headers)


def jobs(here: Services) -> list[str]:
    """Every job that was made, the newest first."""
    return [rec.id for rec in here.lifecycle.page().records]


def replayed(answer: TestResponse) -> bool:
    """Whether an answer says that it is about an earlier request's job."""
    return answer.headers.get("Idempotent-Replayed") == "true"


@pytest.mark.parametrize("form", FORMS, ids=named)
@pytest.mark.parametrize(("first", "again"), [(FIRST, AGAIN), (KEY, KEY)], ids=["tries", "key"])
def test_an_answer_that_was_lost_is_given_again(
    client: FlaskClient,
    here: Services,
    worker: PretendWorker,
    form: tuple[str, dict[str, Any]],
    first: dict[str, str],
    again: dict[str, str],
) -> None:
    """To the letter, of the one job that there is; the header says so."""
    background = form[1].get("background") and not form[1].get("stream")
    with worker.answering():
        lost = send(client, form, first)
        body = lost.data
        wait_until(lambda: here.lifecycle.page().records[0].state is State.COMPLETED, "the job")
        found = send(client, form, again)
    assert (lost.status_code, found.status_code) == (200, 200)
    assert (replayed(lost), replayed(found)) == (False, True)
    assert len(jobs(here)) == 1
    if background:
        assert (found.get_json()["id"], found.get_json()["status"]) == (lost.get_json()["id"], "completed")
    elif not form[1].get("background"):
        assert found.data == body


@pytest.mark.parametrize("form", [(CHAT, {}), (COMPLETIONS, {}), (CHAT, {"stream": True})], ids=named)
@pytest.mark.parametrize(("first", "again"), [(FIRST, AGAIN), (KEY, KEY)], ids=["tries", "key"])
def test_of_several_choices_each_is_found(
    client: FlaskClient,
    here: Services,
    worker: PretendWorker,
    form: tuple[str, dict[str, Any]],
    first: dict[str, str],
    again: dict[str, str],
) -> None:
    """In its own place: two jobs in all, however often they are asked for."""
    with worker.answering():
        send(client, form, first, n=2)
        found = [
            send(
                client,
                form,
                again | ({} if "Idempotency-Key" in again else {"x-stainless-retry-count": count}),
                n=2,
            )
            for count in ("1", "2")
        ]
    assert len(jobs(here)) == 2
    assert all(map(replayed, found))
    if not form[1]:
        assert [choice["index"] for choice in found[0].get_json()["choices"]] == [0, 1]
        assert found[0].get_json() == found[1].get_json()


@pytest.mark.parametrize("form", ATTENDED, ids=named)
def test_first_tries_are_never_taken_for_one(
    client: FlaskClient, here: Services, worker: PretendWorker, form: tuple[str, dict[str, Any]]
) -> None:
    """Two clients may ask the same at once; so may one, on purpose."""
    with worker.answering():
        assert not any(replayed(send(client, form, headers)) for headers in (FIRST, FIRST, {}, {}))
    assert len(jobs(here)) == 4


def test_a_key_names_a_body_on_a_route(client: FlaskClient, here: Services, worker: PretendWorker) -> None:
    """Any other under it is refused, before anything is made; how it is streamed is part of the body."""
    with worker.answering():
        send(client, (CHAT, {}), KEY)
        others = [
            send(client, (CHAT, {}), KEY, text="b"),
            send(client, (CHAT, {"stream": True}), KEY),
            send(client, (COMPLETIONS, {}), KEY),
            send(client, (RESPONSES, {"background": True}), KEY),
            client.post("/v1/jobs", json={"model": MODEL, "prompt": "a b"}, headers=KEY),
        ]
    assert {(each.status_code, each.get_json()["error"]["code"]) for each in others} == {
        (422, "idempotency_mismatch")
    }
    assert len(jobs(here)) == 1


@pytest.mark.parametrize("form", ATTENDED, ids=named)
def test_what_failed_and_can_be_helped_is_tried_anew(
    client: FlaskClient, here: Services, worker: PretendWorker, form: tuple[str, dict[str, Any]]
) -> None:
    """A key does not hold a failure fast that its own answer says to try again."""
    with worker.answering():
        answers = [send(client, form, KEY, text="fail") for _ in range(2)]
    assert [each.status_code for each in answers] == [503, 503]
    assert not any(map(replayed, answers))
    assert len(jobs(here)) == 2


def test_what_failed_for_good_is_told_again(
    client: FlaskClient, here: Services, worker: PretendWorker
) -> None:
    """The same error, of the same job."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, client, (CHAT, {}), KEY)
        wait_until(lambda: here.lifecycle.queue.waiting()[0] == 1, "the job")
        worker.fail(worker.claim(), ClientError("worker_killed", "it kills"))
        assert first.result(20).status_code == 500
    again = send(here_client(client), (CHAT, {}), KEY)
    assert (again.status_code, again.get_json()["error"]["code"]) == (500, "worker_killed")
    assert replayed(again)
    assert len(jobs(here)) == 1


def here_client(client: FlaskClient) -> FlaskClient:
    """Another client of the same application: one is for one thread."""
    return client.application.test_client()


@pytest.mark.parametrize("end", ["cancelled", "deleted"])
def test_what_was_cancelled_or_deleted_is_made_anew(
    client: FlaskClient, here: Services, worker: PretendWorker, end: str
) -> None:
    """Whoever asks again under its key wants an answer."""
    with worker.answering():
        send(client, (CHAT, {}), KEY)
    (job_id,) = jobs(here)
    if end == "deleted":
        client.delete(f"/v1/jobs/{job_id}")
    else:  # while it ran; who waited for it has been told
        here.lifecycle.delete(job_id)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(send, here_client(client), (CHAT, {}), KEY)
            wait_until(lambda: here.lifecycle.queue.waiting()[0] == 1, "the job")
            (job_id,) = jobs(here)
            client.post(f"/v1/jobs/{job_id}/cancel")
            assert waiting.result(20).status_code >= 400
    with worker.answering():
        again = send(client, (CHAT, {}), KEY)
    assert (again.status_code, replayed(again)) == (200, False)
    assert jobs(here)[0] != job_id


def test_two_processes_make_one_job_between_them(
    settings: Settings, connection: Redis, worker: PretendWorker
) -> None:
    """Who comes second waits for the job of the first; all are told the same."""
    apps = [create_app(settings, connection) for _ in range(2)]
    try:
        with worker.answering(), ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(send, apps[place % 2].test_client(), (CHAT, {}), KEY, n=2) for place in range(8)
            ]
            answers = [each.result(30) for each in asked]
        assert {each.status_code for each in answers} == {200}
        assert len({each.data for each in answers}) == 1
        assert len(jobs(apps[0].extensions[EXTENSION])) == 2
    finally:
        for app in apps:
            app.extensions[EXTENSION].reader.close()


Leaving = Callable[[bool], None]


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> Leaving:
    """Says whether clients that come from now on go away before they are answered, and come again within a moment."""
    monkeypatch.setattr(attended, "LINGER_SECONDS", 0.6)
    monkeypatch.setattr(responses, "HOLD_SECONDS", 5.0)

    def leave(gone: bool) -> None:
        monkeypatch.setattr(attended, "client_gone", lambda: lambda: gone)

    return leave


@pytest.mark.parametrize("form", ATTENDED, ids=named)
@pytest.mark.parametrize(
    ("first", "seconds"), [(FIRST, 0.6), (KEY, 0.6), ({}, 0.0)], ids=["tries", "key", "none"]
)
def test_a_client_that_does_not_come_again_takes_its_job_with_it(
    client: FlaskClient,
    here: Services,
    worker: PretendWorker,
    leaving: Leaving,
    form: tuple[str, dict[str, Any]],
    first: dict[str, str],
    seconds: float,
) -> None:
    """After a moment where it might have; at once where it said nothing of the kind."""
    leaving(True)
    waits: list[float] = []
    here.lifecycle._pause = waits.append
    answer = send(client, form, first)
    assert answer.status_code == 499
    assert [wait for wait in waits if wait] == ([seconds] if seconds else [])
    assert here.lifecycle.page().records[0].state is State.CANCELLED


@pytest.mark.parametrize("form", ATTENDED, ids=named)
def test_a_client_that_comes_again_in_time_is_answered_by_its_first_job(
    client: FlaskClient,
    here: Services,
    worker: PretendWorker,
    leaving: Leaving,
    form: tuple[str, dict[str, Any]],
) -> None:
    """The first connection broke while the job waited; the second has the answer, and nothing was computed twice."""
    leaving(True)
    with ThreadPoolExecutor(2) as pool:
        lost = pool.submit(send, here_client(client), form, FIRST)
        wait_until(lambda: here.lifecycle.queue.waiting()[0] == 1, "the first try's job")
        leaving(False)
        second = pool.submit(send, here_client(client), form, AGAIN)
        assert lost.result(20).status_code == 499
        held = worker.claim()
        worker.say(held, "hi")
        worker.complete(held, "hi")
        found = second.result(20)
    assert (found.status_code, replayed(found)) == (200, True)
    assert len(jobs(here)) == 1


def test_a_large_body_is_looked_at_once_for_all_its_choices(
    client: FlaskClient, worker: PretendWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs it makes: what tells it from others is of the whole of it."""
    looks: list[object] = []
    real = attended.once
    monkeypatch.setattr(attended, "once", lambda *args, **how: looks.append(1) or real(*args, **how))
    with worker.answering():
        assert send(client, (COMPLETIONS, {}), KEY, n=8).status_code == 200
    assert len(looks) == 1
