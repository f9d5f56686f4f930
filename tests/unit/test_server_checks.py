"""`tidegate doctor` on the queue's server: what is said of recorded ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.recorded import GIB
from tests.recorded_facts import CONFIG, FACTS, INFO, QUEUE, found, only, queue
from tidegate.doctor import judge
from tidegate.engine_facts import Unknown
from tidegate.finding import Finding, Mark
from tidegate.server_facts import QueueFacts, is_here


def server(**said: Any) -> dict[str, Any]:
    """A server of which so much is otherwise."""
    return {"queue": replace(QUEUE, **said)}


def config(**said: str) -> dict[str, Any]:
    """A server that is configured so."""
    return server(config={**CONFIG, **{name.replace("_", "-"): value for name, value in said.items()}})


def said_of(what: str, **seen: Any) -> Finding:
    """What is said of one thing."""
    (one,) = (each for each in judge(replace(FACTS, **seen)) if each.what == what)
    return one


@pytest.mark.parametrize(
    ("seen", "what", "said"),
    [
        (
            server(latency_seconds=0.2),
            "queue",
            "Valkey 9.0.0 at rediss://queue:6379/0 answers in 200.0 ms",
        ),
        (
            queue(valkey_version=None, redis_version="6.2.14"),
            "queue",
            "Redis 6.2.14 at rediss://queue:6379/0 answers in 0.4 ms: too old",
        ),
        (queue(aof_enabled=0), "queue keeps", "no append-only file: a restart may lose the queue"),
        (
            config(appendfsync="no"),
            "queue keeps",
            "its append-only file is flushed when the system likes: a crash may lose half a minute",
        ),
        (
            queue(maxmemory_policy="allkeys-lru"),
            "queue memory",
            "allkeys-lru forgets jobs where memory is short",
        ),
        (queue(evicted_keys=1200), "queue memory", "noeviction has forgotten 1,200 keys since it began"),
        (queue(maxmemory=100, used_memory=95), "queue memory", "95 B of 100 B: nearly full"),
        (queue(aof_last_write_status="err"), "queue disk", "its last writes failed: aof_last_write_status"),
        (queue(role="slave"), "queue disk", "it is a replica, and takes no writes"),
        (
            server(folder=(Path("/data"), GIB + 5), info={**INFO, "aof_current_size": 6}),
            "queue room",
            "/data: 1.0 GiB free, and its log has 6 B",
        ),
        (
            server(lets_all_in=True),
            "queue reach",
            "it is reached over the network, and asks nobody for a password",
        ),
        (
            server(lets_all_in=True, url="redis://localhost:6379/0"),
            "queue reach",
            "it is reached over the network, and asks nobody for a password",
        ),
    ],
)
def test_what_is_amiss_with_the_server_is_said_with_what_to_do(
    seen: dict[str, Any], what: str, said: str
) -> None:
    """Each by one check, and nothing else is amiss."""
    assert only(Mark.BAD, **seen)[:2] == (what, said)
    assert only(Mark.BAD, **seen)[2]


def test_a_save_that_failed_may_stop_every_write() -> None:
    """Where the server is set so, which is its default: that is why."""
    assert said_of("queue disk", **queue(rdb_last_bgsave_status="err")).why.startswith("stop-writes-on")
    off = {**QUEUE.info, "rdb_last_bgsave_status": "err"}
    lax = server(info=off, config={**CONFIG, "stop-writes-on-bgsave-error": "no"})
    assert said_of("queue disk", **lax).why == ""


@pytest.mark.parametrize(
    ("seen", "what", "said"),
    [
        (server(info={}), "queue keeps", "not known: this client may not ask INFO"),
        (
            server(config=Unknown("unknown command 'CONFIG'")),
            "queue keeps",
            "every write goes to an append-only file; how often that is flushed is not known: CONFIG is refused "
            "(unknown command 'CONFIG')",
        ),
        (server(lets_all_in=None), "queue reach", "not known: this client may not ask who is let in"),
        (
            server(url="redis://queue:6379/0"),
            "queue reach",
            "it asks for a password, which crosses the network in the clear",
        ),
    ],
)
def test_what_a_server_does_not_tell_is_no_fault(seen: dict[str, Any], what: str, said: str) -> None:
    """A provider's server may forbid CONFIG; the rest is judged."""
    assert only(Mark.NOTE, **seen)[:2] == (what, said)
    assert found(Mark.BAD, **seen) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (config(appendfsync="always"), "flushed always: a crash loses nothing"),
        (config(), "flushed everysec: a crash loses up to a second"),
    ],
)
def test_what_a_crash_loses_is_said(seen: dict[str, Any], said: str) -> None:
    """By how often the append-only file is flushed."""
    assert said_of("queue keeps", **seen).said == f"every write goes to an append-only file, {said}"


@pytest.mark.parametrize(
    ("said", "mark"),
    [
        ({"bind": "127.0.0.1 -::1", "protected-mode": "no"}, Mark.GOOD),
        ({"bind": "* -::*", "protected-mode": "yes"}, Mark.GOOD),
        ({"bind": "127.0.0.1 10.0.0.5", "protected-mode": "no"}, Mark.BAD),
        ({"bind": "", "protected-mode": "no"}, Mark.BAD),
    ],
)
def test_a_server_here_without_a_password_must_listen_here_alone(said: dict[str, str], mark: Mark) -> None:
    """By its addresses, or by its protected mode, which answers nobody else."""
    seen = server(url="redis://127.0.0.1:6379/0", lets_all_in=True, config={**CONFIG, **said})
    assert said_of("queue reach", **seen).mark is mark


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("unix:///data/valkey.sock", True),
        ("redis://localhost:6379/0", True),
        ("redis://[::1]:6379/0", True),
        ("redis://queue:6379/0", False),
        ("rediss://10.0.0.5/0", False),
    ],
)
def test_a_socket_and_loopback_are_this_machine(url: str, here: bool) -> None:
    """Names of others are not looked up."""
    assert is_here(url) is here


def test_its_disk_is_judged_where_it_is_seen() -> None:
    """With room for its log a second time."""
    seen: QueueFacts = replace(QUEUE, folder=(Path("/data"), 50 * GIB))
    assert said_of("queue room", queue=seen).mark is Mark.GOOD
    assert [each for each in judge(FACTS) if each.what == "queue room"] == []
