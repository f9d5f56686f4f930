"""The shares of a host's memory on a real server: races, lapses, and what others left there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from scheduler.host_leases import HostLeases, Tenant, host_key, share_key
from scheduler.host_share import HostFull, Share, Wish, dump, parse

HOST = "boot-1"
POOLS = {"host_total": 100}


def leases(connection: Redis, name: str, lease_seconds: float = 60.0, **options: Any) -> HostLeases:
    return HostLeases(connection, HOST, Tenant(name, name, 1, "pid:[1]", lease_seconds), **options)


def wish(setting: int | None = None, least: int = 0) -> Wish:
    return Wish("?", POOLS, setting, least)


def held(connection: Redis) -> dict[str, int]:
    text: Any = connection.get(host_key(HOST))
    return {token: share.share_bytes for token, share in parse(text or b"").items()}


def test_the_second_gets_what_is_left_and_the_third_nothing(connection: Redis) -> None:
    """And what was given back is the next one's."""
    one, two, three = (leases(connection, name) for name in ("one", "two", "three"))
    assert (one.take(wish(70)), two.take(wish())) == (70, 30)
    with pytest.raises(HostFull, match=r"worker one .* worker two "):
        three.take(wish())
    one.leave()
    assert three.take(wish()) == 70
    assert held(connection) == {"two": 30, "three": 70}
    two.leave()
    three.leave()
    assert connection.keys("tidegate:*") == []


def test_a_share_taken_again_replaces_the_first(connection: Redis) -> None:
    """A worker does not stand in its own way."""
    one = leases(connection, "one")
    assert [one.take(wish(60)), one.take(wish(80))] == [60, 80]
    assert held(connection) == {"one": 80}


def test_hosts_do_not_share(connection: Redis) -> None:
    """Each has its own memory."""
    assert leases(connection, "one").take(wish()) == 100
    other = HostLeases(connection, "boot-2", Tenant("two", "two", 1, "", 60.0))
    assert other.take(wish()) == 100


def test_a_lapsed_share_is_the_next_ones(connection: Redis) -> None:
    """Once its lease is over, and not before; the entry goes."""
    leases(connection, "one").take(wish())
    two = leases(connection, "two")
    with pytest.raises(HostFull):
        two.take(wish())
    connection.delete(share_key("one"))
    assert two.take(wish()) == 100
    assert held(connection) == {"two": 100}


def test_a_share_whose_process_is_gone_is_the_next_ones_at_once(connection: Redis) -> None:
    """Though its lease runs; others' shares stay."""
    for name in ("one", "two"):
        leases(connection, name).take(wish(50))
    three = leases(connection, "three", is_gone=lambda share: share.worker == "one")
    assert three.take(wish()) == 50
    assert held(connection) == {"two": 50, "three": 50}


def test_a_late_leaver_frees_nothing(connection: Redis) -> None:
    """Its share is another's by then."""
    one, two = leases(connection, "one"), leases(connection, "two")
    one.take(wish())
    connection.delete(share_key("one"))
    two.take(wish())
    one.leave()
    assert held(connection) == {"two": 100}


def test_a_silent_worker_keeps_what_nobody_took(connection: Redis) -> None:
    """Its lease lapsed; it comes back, and it counts again."""
    one = leases(connection, "one")
    one.take(wish(80))
    connection.delete(share_key("one"))
    assert one.renew(wish(), 80)
    with pytest.raises(HostFull):
        leases(connection, "two").take(wish(30))


def test_a_silent_worker_whose_share_was_taken_is_told(connection: Redis) -> None:
    """Where there is room for all the same it goes on; else it hears that it holds nothing any more."""
    one, two = leases(connection, "one"), leases(connection, "two")
    one.take(wish(60))
    connection.delete(share_key("one"))
    two.take(wish(40))
    assert one.renew(wish(), 60)
    connection.delete(share_key("one"))
    two.take(wish(41))
    assert not one.renew(wish(), 60)
    assert held(connection) == {"two": 41}


@pytest.mark.parametrize("left", ["nothing", "garbage", "a share of another size", "a hash", "a list"])
def test_a_server_that_forgot_is_told_again(connection: Redis, left: str) -> None:
    """By each worker, when it renews: both are there again."""
    both = {"one": 60, "two": 40}
    made = {name: leases(connection, name) for name in both}
    for name, size in both.items():
        made[name].take(wish(size))
    connection.delete(host_key(HOST))
    if left == "garbage":
        connection.set(host_key(HOST), b"\xff{", ex=60)
    elif left == "a share of another size":
        odd = Share("one", 1, "pid:[1]", 10, ("host_total",), 60.0)
        connection.set(host_key(HOST), dump({"one": odd}), ex=60)
    elif left == "a hash":
        connection.hset(host_key(HOST), "a", "b")
    elif left == "a list":
        connection.rpush(host_key(HOST), "a")
    assert all(made[name].renew(wish(), size) for name, size in both.items())
    assert held(connection) == both


def test_nothing_lives_for_ever(connection: Redis) -> None:
    """The lease lapses when it says, and the host's key after it, whoever else holds a longer one."""
    leases(connection, "one", lease_seconds=60).take(wish(10))
    leases(connection, "two", lease_seconds=5).take(wish(10))
    ttl: Callable[[str], Any] = connection.pttl
    assert (
        0 < ttl(share_key("two")) <= 5_000 < ttl(share_key("one")) <= 60_000 < ttl(host_key(HOST)) <= 120_000
    )
    two = leases(connection, "two", lease_seconds=5)
    connection.pexpire(share_key("two"), 100)
    assert two.renew(wish(), 10)
    assert ttl(share_key("two")) > 4_000 and ttl(host_key(HOST)) > 60_000


class Between:
    """A client that lets others act between one's reading and its writing."""

    def __init__(self, connection: Redis, act: Callable[[], object]) -> None:
        self._connection, self._acts = connection, [act]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def pipeline(self, **options: Any) -> Any:
        """Read whose leases run; then the others act."""
        made = self._connection.pipeline(**options)
        execute = made.execute

        def executed() -> Any:
            answers = execute()
            while self._acts:
                self._acts.pop()()
            return answers

        made.execute = executed
        return made


def test_of_two_that_ask_at_once_one_is_first(connection: Redis) -> None:
    """The other read the same, and takes what that left."""
    first = leases(connection, "one")
    between: Any = Between(connection, lambda: first.take(wish(70)))
    assert leases(between, "two").take(wish()) == 30
    assert held(connection) == {"one": 70, "two": 30}


def test_one_that_wakes_while_its_share_is_taken_keeps_it(connection: Redis) -> None:
    """It renewed after it was read as lapsed: it is not robbed."""
    sleeper = leases(connection, "one")
    sleeper.take(wish())
    connection.delete(share_key("one"))
    between: Any = Between(connection, lambda: sleeper.renew(wish(), 100))
    with pytest.raises(HostFull):
        leases(between, "two").take(wish())
    assert held(connection) == {"one": 100}


@pytest.fixture
def clients(connection: Redis, valkey_url: str) -> Iterator[list[Redis]]:
    """Connections of their own."""
    made = [Redis.from_url(valkey_url) for _ in range(8)]
    yield made
    for each in made:
        each.close()


def comes_and_goes(client: Redis, name: str, setting: int) -> None:
    """A worker that takes, is robbed of its lease at times, renews and leaves."""
    mine = leases(client, name)
    for turn in range(30):
        with contextlib.suppress(HostFull):
            granted = mine.take(wish(setting if turn % 2 else None, least=5))
            if turn % 3 == 0:
                client.delete(share_key(name))
            if mine.renew(wish(), granted):
                mine.leave()


def test_many_at_once_never_hold_more_than_there_is(connection: Redis, clients: list[Redis]) -> None:
    """Eight take, renew and leave at once; whoever looks sees at most the whole."""
    sums: list[int] = []
    with ThreadPoolExecutor(len(clients)) as pool:
        lives = [pool.submit(comes_and_goes, each, f"w{at}", 10 + at) for at, each in enumerate(clients)]
        while not all(life.done() for life in lives):
            sums.append(sum(held(connection).values()))
        for life in lives:
            life.result()
    assert 0 < max(sums) <= 100
