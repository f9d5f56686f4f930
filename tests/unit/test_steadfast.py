"""What keeps an RQ worker alive while its store is away."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq.group import Group

from workers.metal_worker import MetalWorker
from workers.steadfast import Steadfast, be_quick


def test_a_store_that_stands_still_is_waited_for_as_long_as_a_lease_allows(tmp_path: Path) -> None:
    """A third of it, once: what was sent is not sent again by anyone but the worker's loop."""
    path = tmp_path / "deaf.sock"
    with socket.socket(socket.AF_UNIX) as deaf, Redis(unix_socket_path=str(path)) as client:
        deaf.bind(str(path))
        deaf.listen(8)
        deaf.settimeout(0.0)
        be_quick(client, 3.0)
        began = time.monotonic()
        with pytest.raises(RedisTimeoutError):
            client.ping()
        assert 0.9 < time.monotonic() - began < 10
        deaf.accept()[0].close()
        with pytest.raises(BlockingIOError):
            deaf.accept()


@pytest.mark.parametrize(
    "error", [RedisTimeoutError("late"), BusyLoadingError("loading"), ResponseError("BUSY")]
)
def test_the_thread_of_commands_goes_on(error: RedisError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a server says that is away; of a defect it dies."""
    slept: list[float] = []
    monkeypatch.setattr("rq.worker.base.time.sleep", slept.append)
    try:
        raise error
    except RedisError as raised:
        Late()._pubsub_exception_handler(raised, MagicMock(), MagicMock())
    assert slept
    with pytest.raises(ZeroDivisionError):
        die()


class Late(Steadfast):
    """A worker's name and log, and no more."""

    def __init__(self) -> None:
        self.name, self.log = "late", MagicMock()


def die() -> None:
    """A defect, in the thread of commands."""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as defect:
        Late()._pubsub_exception_handler(defect, MagicMock(), MagicMock())


def test_groups_whose_names_are_no_text_end_no_worker(connection: Redis) -> None:
    """RQ reads them all when it tidies, and others may have written them."""
    connection.sadd("rq:groups", b"\xff")
    worker = MetalWorker(["standard"], connection=connection)
    with pytest.raises(UnicodeDecodeError):
        super(Steadfast, worker).clean_group_registries()
    connection.delete(Group.REDIS_GROUP_CLEANING_KEY)
    worker.clean_group_registries()
    assert connection.delete("rq:groups", Group.REDIS_GROUP_CLEANING_KEY) == 2
