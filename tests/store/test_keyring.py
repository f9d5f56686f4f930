"""API keys on the server: written by an operator, read at most once a second."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from scheduler.errors import ClientError, StoreUnavailable
from scheduler.keyring import FRESH_SECONDS, KEYS_KEY, KeyBook, KeyRing
from scheduler.keys import new_key
from tests.keys import make_key
from tests.valkey import valkey


class Steady:
    """Seconds that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def steady() -> Steady:
    """By which what is known grows old."""
    return Steady()


@pytest.fixture
def ring(connection: Redis, steady: Steady) -> KeyRing:
    """What a serving process knows."""
    return KeyRing(connection, steady=steady)


def commands(connection: Redis) -> int:
    """How often keys were read."""
    found: Any = connection.info("commandstats")
    return int(found.get("cmdstat_hgetall", {}).get("calls", 0))


def opens(ring: KeyRing, token: str) -> bool:
    """Whether a token lets its bearer in."""
    try:
        ring.of_token(token)
    except ClientError:
        return False
    return True


def test_a_key_is_added_once_changed_while_it_is_there_and_removed_once(connection: Redis) -> None:
    """A change does not bring back what was removed meanwhile."""
    book, (_, key) = KeyBook(connection), new_key(time.time(), name="ann")
    assert [book.add(key), book.add(key)] == [True, False]
    changed = key.changed(queued_jobs=3)
    assert book.change(changed)
    assert dict(book.read()[0].by_owner) == {key.owner: changed}
    assert [book.remove(key.owner), book.remove(key.owner)] == [True, False]
    assert not book.change(key)
    assert not connection.exists(KEYS_KEY)


def test_a_removed_key_opens_nothing_a_second_later(connection: Redis, ring: KeyRing, steady: Steady) -> None:
    """And a new one opens by then."""
    token, key = make_key(connection)
    assert opens(ring, token)
    KeyBook(connection).remove(key.owner)
    other, _ = make_key(connection)
    steady.now += FRESH_SECONDS
    assert [opens(ring, each) for each in (token, other)] == [False, True]


def test_requests_do_not_each_read_the_keys(connection: Redis, ring: KeyRing, steady: Steady) -> None:
    """A thousand in a second make one read; those who come together wait for it."""
    token, _ = make_key(connection)
    before = commands(connection)
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda _: opens(ring, token), range(1000)))
    steady.now += FRESH_SECONDS
    assert opens(ring, token)
    assert commands(connection) - before == 2


@pytest.mark.parametrize("text", [b"nonsense", b"{}", b"\xff"])
def test_an_entry_that_is_no_key_opens_nothing_and_keeps_the_door_shut(
    connection: Redis, text: bytes
) -> None:
    """Others' keys go on; so do not those without one."""
    token, key = make_key(connection)
    connection.hset(KEYS_KEY, "0" * 16, text)
    connection.hset(KEYS_KEY, "1" * 16, key.dump())  # under another's name
    found, unreadable = KeyBook(connection).read()
    assert dict(found.by_owner) == {key.owner: key}
    assert sorted(unreadable) == ["0" * 16, "1" * 16]
    assert opens(KeyRing(connection), token)
    KeyBook(connection).remove(key.owner)
    assert KeyRing(connection).current().any_stored


def test_what_is_no_hash_lets_nobody_in(connection: Redis) -> None:
    """Nor does it break anything."""
    connection.set(KEYS_KEY, "mine", ex=60)
    keys = KeyRing(connection).current()
    assert (keys.any_stored, dict(keys.by_owner)) == (True, {})


def test_without_the_server_nobody_is_let_in(tmp_path: Path, steady: Steady) -> None:
    """What was known may have been changed; while it is fresh it holds."""
    with valkey(tmp_path) as (url, process), Redis.from_url(url) as client:
        token, _ = make_key(client)
        ring = KeyRing(client, steady=steady)
        assert opens(ring, token)
        process.kill()
        process.wait()
        assert opens(ring, token)
        steady.now += FRESH_SECONDS
        with pytest.raises(StoreUnavailable):
            ring.of_token(token)
