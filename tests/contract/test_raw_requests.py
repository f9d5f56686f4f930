"""Bytes that are no requests, or two things at once, over real connections: refused, nothing enqueued, others served."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from redis import Redis

from tests.contract.test_bad_input import nothing_enqueued
from tests.fuzz.sockets import (
    BROKEN_CHUNKS,
    CUT,
    GARBAGE,
    HEALTH,
    PAUSE,
    SMUGGLED,
    SOUND,
    Server,
    targets,
)


@pytest.fixture
def server(url: str) -> Server:
    """As a client finds it; what it logs is looked at when it ends."""
    return Server(url)


def test_requests_may_come_in_any_pieces(server: Server, connection: Redis) -> None:
    """Several on one connection too: each has its answer, in order."""
    answers = [server.judge(data) for data in SOUND]
    assert answers == [[200], [202], [202], [200, 202, 200]]
    for at in (1, 25, 43, 60, 110, 150):
        for data, answered in zip(SOUND, answers, strict=True):
            assert server.judge(data[:at] + PAUSE + data[at : at + 1] + PAUSE + data[at + 1 :]) == answered


@pytest.mark.parametrize("bad", [SMUGGLED, BROKEN_CHUNKS], ids=["smuggled", "chunks"])
def test_a_body_of_two_readings_has_none(server: Server, connection: Redis, bad: Sequence[bytes]) -> None:
    """400, and the connection is closed: what comes behind it is not taken for another request."""
    for data in bad:
        assert server.judge(data + HEALTH) in ([400], []), data[:200]
    assert nothing_enqueued(connection)


def test_a_head_that_is_none_is_refused(server: Server, connection: Redis) -> None:
    """400 where it has lines; what comes behind it is not read."""
    for data in GARBAGE:
        assert server.judge(data + HEALTH) in ([400], []), data[:200]


def test_a_client_may_leave_in_the_midst_of_it(server: Server, connection: Redis) -> None:
    """Nothing is made of the half that came."""
    for data in CUT:
        assert not {200, 202} & {*server.judge(data)}, data
    assert nothing_enqueued(connection)


def test_what_did_harm_once_does_none(server: Server, connection: Redis) -> None:
    """What `make fuzz` kept."""
    for target in targets():
        for data in target.kept():
            server.judge(data)
