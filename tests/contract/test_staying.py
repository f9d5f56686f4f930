"""A key that was removed: what it holds open ends, within seconds; what an outage is no reason to end goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.services import Services
from api.staying import LOOK_SECONDS
from scheduler.job import State
from scheduler.keyring import FRESH_SECONDS, KeyBook, KeyRing
from scheduler.keys import Key
from tests.conftest import MODEL
from tests.keys import bearer, make_key
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until

SOON: Final = 8 * (FRESH_SECONDS + LOOK_SECONDS)
"""Far less than any of these requests would take by itself; machines of tests are slow."""

JOB: Final = {"model": MODEL, "prompt": "a"}
CHAT: Final = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}


def later(
    client: FlaskClient, path: str, headers: dict[str, str], body: dict[str, Any] | None
) -> Callable[[], Any]:
    """Ask from another thread; the answer, whole, once it is there."""
    found: list[Any] = []

    def ask() -> None:
        said = client.open(path, method="POST" if body else "GET", json=body, headers=headers)
        found.append((said.status_code, said.get_data(as_text=True)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()

    def answered() -> Any:
        thread.join(60)
        assert found, "it is still held open"
        return found[0]

    return answered


@pytest.fixture
def ann(connection: Redis) -> tuple[dict[str, str], Key]:
    """A key's header and the key, beside another key, so that none of this is open to all."""
    make_key(connection)
    token, key = make_key(connection)
    return bearer(token), key


WAITS: Final = {
    "a wait": ("/v1/jobs", JOB, {"Prefer": "wait=60"}),
    "a chat": ("/v1/chat/completions", CHAT, {}),
    "a response": ("/v1/responses", {"model": MODEL, "input": "a"}, {}),
}


@pytest.mark.parametrize("kind", WAITS)
def test_a_wait_of_a_removed_key_ends(
    client: FlaskClient, here: Services, connection: Redis, ann: tuple[dict[str, str], Key], kind: str
) -> None:
    """With 401, whatever it waited for; a job that only its client waited for is cancelled."""
    path, body, more = WAITS[kind]
    answered = later(client, path, ann[0] | more, body)
    wait_until(lambda: bool(here.lifecycle.page().records), "the job")
    began = time.monotonic()
    KeyBook(connection).remove(ann[1].owner)
    status, text = answered()
    assert time.monotonic() - began < SOON
    assert status == 401
    assert "unauthorized" in text
    (rec,) = here.lifecycle.page().records
    assert (rec.state is State.CANCELLED) == (kind != "a wait")


STREAMS: Final = {
    "a job": ("/v1/jobs", JOB | {"stream": True}),
    "a chat": ("/v1/chat/completions", CHAT | {"stream": True}),
    "a response": ("/v1/responses", {"model": MODEL, "input": "a", "stream": True}),
}


@pytest.mark.parametrize("talks", [False, True])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_of_a_removed_key_ends(
    client: FlaskClient,
    connection: Redis,
    worker: PretendWorker,
    ann: tuple[dict[str, str], Key],
    kind: str,
    talks: bool,
) -> None:
    """In silence, and while its job goes on talking."""
    path, body = STREAMS[kind]
    answered = later(client, path, ann[0], body)
    wait_until(
        lambda: connection.llen("rq:queue:standard") or connection.llen("rq:queue:interactive"), "the job"
    )
    held = worker.claim()
    worker.say(held, "one ")
    began = time.monotonic()
    KeyBook(connection).remove(ann[1].owner)
    stop = threading.Event()

    def talk() -> None:
        while not stop.wait(0.05):
            worker.say(held, "more ")

    talker = threading.Thread(target=talk, daemon=True)
    if talks:
        talker.start()
    try:
        status, text = answered()
    finally:
        stop.set()
        if talks:
            talker.join(15)
    assert time.monotonic() - began < SOON
    assert status == 200
    assert "one" in text
    assert "[DONE]" not in text[-14:] or kind != "a job"  # it is no end of the job


def test_where_there_were_no_keys_the_first_one_ends_what_is_open(
    client: FlaskClient, here: Services, connection: Redis
) -> None:
    """Whoever came without a key would not be let in any more."""
    answered = later(client, "/v1/jobs", {"Prefer": "wait=60"}, JOB)
    wait_until(lambda: bool(here.lifecycle.page().records), "the job")
    make_key(connection)
    assert answered()[0] == 401


def test_a_key_that_stays_keeps_its_wait(
    client: FlaskClient, connection: Redis, worker: PretendWorker, ann: tuple[dict[str, str], Key]
) -> None:
    """Though another is removed, and its own was changed: it is let in again, and so it stays."""
    answered = later(client, "/v1/jobs", ann[0] | {"Prefer": "wait=60"}, JOB)
    wait_until(lambda: bool(connection.llen("rq:queue:standard")), "the job")
    _, other = make_key(connection)
    KeyBook(connection).change(ann[1].changed(queued_jobs=5))
    KeyBook(connection).remove(other.owner)
    time.sleep(2 * FRESH_SECONDS + LOOK_SECONDS)
    worker.complete(worker.claim(), "done")
    status, text = answered()
    assert (status, "done" in text) == (200, True)


def test_an_outage_turns_nobody_out(connection: Redis) -> None:
    """Who is in is not known to have lost its key: its stream waits for the server as others do."""
    _, key = make_key(connection)
    moment = [0.0]
    ring = KeyRing(connection, steady=lambda: moment[0])
    assert ring.lets_in(key)
    moment[0] += 2 * FRESH_SECONDS
    ring._connection = Redis(unix_socket_path="/nowhere/valkey.sock", retry=Retry(NoBackoff(), 0))
    assert ring.lets_in(key)


def test_an_expired_key_and_one_made_anew_are_others(connection: Redis) -> None:
    """The first ends at its time; the second has the owner's name by chance, or by somebody's hand, and another token."""
    now = [1000.0]
    _, key = make_key(connection, expires_at=2000.0)
    ring = KeyRing(connection, clock=lambda: now[0])
    assert ring.lets_in(key)
    assert not ring.lets_in(None)
    now[0] = 2000.0
    assert not ring.lets_in(key)
    now[0] = 1000.0
    forged = Key(digest=key.owner + "0" * 48, prefix="tg-", created_at=0.0)
    assert not ring.lets_in(forged)
