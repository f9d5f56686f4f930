"""Guarded commands on a real server: all or nothing, each swap for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from scheduler.errors import StoreUnavailable
from scheduler.swap import Guard, Swap, Swapper, record
from tests.store.looking import snapshot

WRITE = (("SET", "tidegate:waiting:tokens", 5), ("HSET", "tidegate:cards", "a", "b"))


@pytest.fixture
def scratch(valkey_url: str) -> Iterator[Redis]:
    """An emptied server, emptied again afterwards: keys here have no owners."""
    with Redis.from_url(valkey_url) as client:
        client.flushall()
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("min-replicas-to-write", 0)
        client.replicaof("NO", "ONE")
        client.flushall()


@pytest.mark.parametrize(
    ("guards", "answer"),
    [
        ((), 1),
        ((Guard(("GET", "five"), 5),), 1),
        ((Guard(("GET", "five"), "6"),), -1),
        ((Guard(("GET", "none"), ""),), 1),
        ((Guard(("GET", "none"), "?"),), -1),
        ((Guard(("GET", "five"), 5, "<="),), 1),
        ((Guard(("GET", "five"), 4, "<="),), -1),
        ((Guard(("GET", "none"), 0, "<="),), 1),
        ((Guard(("GET", "none"), -1, "<="),), -1),
        ((Guard(("HLEN", "none"), 0, "<="), Guard(("GET", "five"), 6)), -2),
        ((Guard(("GET", "five"), 6), Guard(("GET", "five"), 5)), -1),
        ((Guard(("GET", "five"), 5), Guard(("INCR", "five"), 7), Guard(("INCR", "five"), 7)), -2),
        ((Guard(("LRANGE", "list", 0, -1), 2),), 1),
        ((Guard(("MGET", "five", "none", "ünï"), "5\n\nwäv\n", "words"),), 1),
        ((Guard(("MGET", "five", "none"), "5", "words"),), -1),
        ((Guard(("MGET", "five", "five"), 2, "words"),), -1),
        ((Guard(("PING",), "PONG"),), 1),
        ((Guard(("GET", "ünï"), "wäv\n"),), 1),
    ],
)
def test_a_swap_is_done_where_its_guards_hold(scratch: Redis, guards: tuple[Guard, ...], answer: int) -> None:
    """The answer is 1, or minus the first guard that failed; then nothing is written."""
    scratch.set("five", 5)
    scratch.rpush("list", "a", "b")
    scratch.set("ünï", "wäv\n")
    assert Swapper(scratch)(Swap(guards, WRITE)) == [answer]
    assert scratch.exists("tidegate:cards") == (answer == 1)


def test_swaps_stand_or_fall_alone(scratch: Redis) -> None:
    """One whose guard fails leaves those before and behind it as they are."""
    bad = Guard(("EXISTS", "nothing"), 1)
    swaps = [Swap((), (("SET", "a", 1),)), Swap((bad,), (("SET", "b", 1),)), Swap((), (("SET", "c", 1),))]
    assert Swapper(scratch)(*swaps) == [1, -1, 1]
    assert scratch.mget("a", "b", "c") == [b"1", None, b"1"]


@pytest.mark.parametrize(
    ("done", "answer"),
    [("TT", 1), ("FTT", 1), ("TF", -1), ("FT", -1), ("T", -1)],
)
def test_a_swap_may_ask_whether_those_before_it_were_done(scratch: Redis, done: str, answer: int) -> None:
    """It asks of the last two: where one was not, or there are not so many, it is not done either."""
    guards = {"T": (), "F": (Guard(("EXISTS", "nothing"), 1),)}
    swaps = [Swap(guards[each], (("INCR", "count"),)) for each in done]
    assert Swapper(scratch)(*swaps, Swap((Guard((), 2, "done"),), WRITE))[-1] == answer
    assert scratch.exists("tidegate:cards") == (answer == 1)


def test_later_swaps_see_earlier_ones(scratch: Redis) -> None:
    """They run in their order: of two that take the same thing, the first has it."""
    scratch.rpush("list", "x")
    take = Swap((Guard(("LREM", "list", 1, "x"), 1),), (("INCR", "taken"),))
    assert Swapper(scratch)(take, take) == [1, -1]
    assert scratch.get("taken") == b"1"


def test_an_event_is_written_once(scratch: Redis) -> None:
    """Its number is its id: sent again, it changes nothing, and what goes with it is done."""
    swap = Swap((), (("XADD", "log", "2-0", "a", "1"), ("INCR", "times")))
    swapper = Swapper(scratch)
    assert [swapper(swap), swapper(swap)] == [[1], [1]]
    assert swapper(Swap((), (("XADD", "log", "1-0", "a", "late"),))) == [1]
    assert scratch.xrange("log") == [(b"2-0", {b"a": b"1"})]
    assert scratch.get("times") == b"2"


def test_an_event_that_cannot_be_stored_is_not_swallowed(scratch: Redis) -> None:
    """A full server refuses a step as a whole, and the worker hears it: no text is lost in silence."""
    scratch.set("lease", "w/1")
    swapper = Swapper(scratch)
    swapper(Swap())
    before = snapshot(scratch)
    scratch.config_set("maxmemory", 1)
    step = Swap((Guard(("GET", "lease"), "w/1"),), (("XADD", "log", "1-0", "a", "1"),))
    with pytest.raises(StoreUnavailable):
        swapper(step, step)
    scratch.config_set("maxmemory", 0)
    assert snapshot(scratch) == before
    assert swapper(step) == [1]


def test_a_guard_that_the_server_refuses_fails_alone(scratch: Redis) -> None:
    """A key of another kind is a guard that does not hold, not the end of the whole step."""
    scratch.set("string", "x")
    for guard in (Guard(("HGET", "string", "a"), "x"), Guard(("HLEN", "string"), 9, "<=")):
        assert Swapper(scratch)(Swap((guard,), WRITE), Swap((), (("INCR", "done"),))) == [-1, 1]
    assert scratch.get("done") == b"2"


@pytest.mark.parametrize("refusal", ["NOREPLICAS", "READONLY"])
@pytest.mark.parametrize(
    "swap",
    [
        Swap((), WRITE),
        Swap((), (("XADD", "log", "1-0", "a", "1"),)),
        Swap((Guard(("LREM", "list", 1, "x"), 1),), WRITE),
    ],
    ids=["a write", "an event", "a guard that writes"],
)
def test_a_server_that_takes_no_writes_is_unavailable(scratch: Redis, refusal: str, swap: Swap) -> None:
    """StoreUnavailable with nothing done, and no guard is said to have failed."""
    scratch.rpush("list", "x")
    swapper = Swapper(scratch)
    swapper(Swap())
    before = snapshot(scratch)
    if refusal == "NOREPLICAS":
        scratch.config_set("min-replicas-to-write", 1)
    else:
        scratch.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreUnavailable):
        swapper(swap)
    assert snapshot(scratch) == before


def test_a_server_that_forgot_the_script_is_told_again(scratch: Redis) -> None:
    """After a restart, too."""
    swapper = Swapper(scratch)
    swapper(Swap())
    scratch.script_flush()
    assert swapper(Swap((), (("SET", "a", 1),))) == [1]


def test_no_server_is_said_so(tmp_path: Path) -> None:
    """StoreUnavailable, not a library's error."""
    with Redis(unix_socket_path=str(tmp_path / "nobody")) as nobody, pytest.raises(StoreUnavailable):
        Swapper(nobody)(Swap())


def test_a_recorded_pipeline_is_not_sent(scratch: Redis) -> None:
    """RQ's writes are caught as commands; the server sees them in the swap alone."""
    commands = record(scratch, lambda pipe: pipe.set("a", "b", ex=9).hset("h", mapping={"x": 1}))
    assert commands == (("SET", "a", "b", "EX", 9), ("HSET", "h", "x", 1))
    assert scratch.dbsize() == 0
    assert Swapper(scratch)(Swap((), commands)) == [1]
    assert scratch.hgetall("h") == {b"x": b"1"}


def test_a_whole_batch_goes_in_one_step(scratch: Redis) -> None:
    """Five hundred jobs of a step, thirty thousand words: one call."""
    swaps = [Swap((Guard(("EXISTS", "x"), 0),) * 4, (("INCR", f"k{n}"),) * 8) for n in range(512)]
    assert Swapper(scratch)(*swaps) == [1] * 512
    assert scratch.get("k511") == b"8"


@pytest.mark.parametrize("taken", [True, False])
def test_a_full_server_takes_nothing_away(scratch: Redis, *, taken: bool) -> None:
    """A guard that takes a job out of its list is followed by the rest, or was not done."""
    scratch.rpush("list", *(["x"] if taken else ["y"]))
    swapper = Swapper(scratch)
    swapper(Swap())
    scratch.config_set("maxmemory", 1)
    swap = Swap((Guard(("LREM", "list", 1, "x"), 1),), (("HSET", "job", "status", "started"),))
    assert swapper(swap) == [1 if taken else -1]
    scratch.config_set("maxmemory", 0)
    assert scratch.exists("job") == taken
    assert scratch.lrange("list", 0, -1) == ([] if taken else [b"y"])
