"""Round trips: how many a submission takes, and what is left of a connection when one goes wrong."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from scheduler.lifecycle import Lifecycle
from scheduler.request import read_request
from scheduler.round_trip import round_trip
from scheduler.swap import Swap, Swapper
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import Clock


def counted(monkeypatch: pytest.MonkeyPatch, connection: Redis) -> list[object]:
    """Grows by one with each round trip from now on: each takes a connection from the pool."""
    taken: list[object] = []
    take = connection.connection_pool.get_connection

    def get_connection(*given: Any, **named: Any) -> Any:
        taken.append(given)
        return take(*given, **named)

    monkeypatch.setattr(connection.connection_pool, "get_connection", get_connection)
    return taken


def test_a_submission_and_its_answer_are_one_round_trip(
    connection: Redis,
    lifecycle: Lifecycle,
    worker: PretendWorker,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known of the fleet and of the model is known for half a second."""
    worker.report()
    request = read_request({"model": MODEL, "prompt": "a"})
    lifecycle.submit(request)
    clock.now += 0.001  # of two in one moment, chance says which is first
    taken = counted(monkeypatch, connection)
    view = lifecycle.view(*lifecycle.accept(request))
    assert len(taken) == 1
    assert view["queue"]["position"] == 2
    assert view == lifecycle.view(lifecycle.get(view["id"]))


def test_the_first_error_is_raised_as_the_server_words_it(connection: Redis) -> None:
    """All replies are read before, so that the connection serves the next command."""
    connection.set("a", "text", ex=60)
    with pytest.raises(ResponseError, match=r"^WRONGTYPE"):
        round_trip(connection, [("GET", "a"), ("LLEN", "a"), ("GET", "a")])
    assert round_trip(connection, [("GET", "a"), ("STRLEN", "a")]) == [b"text", 4]


def test_a_connection_with_replies_on_their_way_is_not_used_again(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever interrupted the reading, such as the end of the greenlet that read."""
    connection.set("a", "old", ex=60)
    held = connection.connection_pool.get_connection()
    read, calls = held.read_response, []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(*given, **named)

    monkeypatch.setattr(held, "read_response", interrupted)
    connection.connection_pool.release(held)
    with pytest.raises(KeyboardInterrupt):
        round_trip(connection, [("GET", "a"), ("SET", "a", "new", "EX", 60), ("GET", "a")])
    monkeypatch.undo()
    assert round_trip(connection, [("GET", "a")]) == [b"new"]


def test_a_server_that_forgot_the_script_is_told_again(connection: Redis) -> None:
    """The swap is done once, and what is read is read behind it."""
    swapper = Swapper(connection)
    swap = Swap(commands=(("INCRBY", "a", 1), ("EXPIRE", "a", 60)))
    for expected in (b"1", b"2"):
        connection.script_flush()
        assert swapper.and_read(swap, [("GET", "a")]) == (1, [expected])
    assert swapper.and_read(swap, [("GET", "a"), ("TTL", "a")]) == (1, [b"3", 60])
