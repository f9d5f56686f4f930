"""What a real server says of itself to `tidegate doctor`, as it is set, and where it forbids to ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from scheduler.settings import Settings, load
from tests.recorded_facts import FACTS
from tests.valkey import valkey
from tidegate.doctor import judge
from tidegate.engine_facts import Unknown
from tidegate.finding import Mark
from tidegate.server_facts import QueueFacts, on_disk, queue


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of these tests' own, to be set as they please."""
    with valkey(tmp_path_factory.mktemp("own")) as (url, _):
        yield url


def seen_at(url: str) -> QueueFacts:
    """What it says."""
    seen = queue(load(redis_url=url))
    assert isinstance(seen, QueueFacts), seen
    return seen


def marks(url: str) -> dict[str, Mark]:
    """How each thing about it is."""
    findings = judge(replace(FACTS, queue=seen_at(url)))
    return {each.what: each.mark for each in findings if each.what.startswith("queue")}


def test_the_queue_tells_of_itself(settings: Settings, connection: Redis) -> None:
    """Its version, how it keeps what it is given, how far away it is, and its clock; nothing is left there."""
    seen = queue(settings)
    assert isinstance(seen, QueueFacts)
    assert seen.info["redis_version"]
    assert {"aof_enabled", "maxmemory_policy", "aof_last_write_status", "evicted_keys"} <= seen.info.keys()
    assert 0 < seen.latency_seconds < 1
    assert abs(seen.ahead_seconds) < 1
    assert seen.here
    assert seen.lets_all_in is True
    assert not isinstance(seen.config, Unknown)
    assert seen.config["appendfsync"] == "everysec"
    assert seen.folder is not None
    assert seen.folder[0].is_dir()
    assert connection.dbsize() == 0


def test_a_server_is_judged_as_it_is_set(own: str) -> None:
    """The same one: it keeps nothing, then all; it forgets, then refuses; anybody gets in, then nobody without a word."""
    with Redis.from_url(own) as server:
        server.config_set("maxmemory-policy", "allkeys-lru")
        assert marks(own) == {
            "queue": Mark.GOOD,
            "queue keeps": Mark.BAD,
            "queue room": Mark.GOOD,
            "queue memory": Mark.BAD,
            "queue reach": Mark.GOOD,
        }
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("appendonly", "yes")
        server.config_set("appendfsync", "no")
        assert (marks(own)["queue keeps"], marks(own)["queue memory"]) == (Mark.BAD, Mark.GOOD)
        server.config_set("appendfsync", "everysec")
        assert set(marks(own).values()) == {Mark.GOOD}
        server.config_set("requirepass", "hunter2")
        with_password = own.replace("unix://", "unix://:hunter2@")
        seen = seen_at(with_password)
        assert seen.lets_all_in is False
        assert "hunter2" not in repr(seen)
        assert isinstance(queue(load(redis_url=own)), Unknown)
    with Redis.from_url(with_password) as server:
        server.config_set("requirepass", "")


def test_what_a_server_forbids_is_said_and_the_rest_is_seen(own: str) -> None:
    """As a provider's, which knows no CONFIG; as one with an access list, which gives no INFO either."""
    with Redis.from_url(own) as server:
        for rights, has_info in (("-config -acl", True), ("-config -acl -info", False)):
            server.execute_command(
                "ACL", "SETUSER", "clerk", "reset", "on", ">word", "~*", "+@all", *rights.split()
            )
            seen = seen_at(own.replace("unix://", "unix://clerk:word@"))
            assert isinstance(seen.config, Unknown)
            assert bool(seen.info) is has_info
            assert (seen.lets_all_in, seen.folder) == (None, None)
        server.acl_deluser("clerk")


@pytest.mark.parametrize("url", ["redis://:hunter2@127.0.0.1:1/0", "unix:///nowhere.sock"])
def test_a_queue_that_is_not_there_has_a_reason(url: str) -> None:
    """Without the password in it."""
    seen = queue(load(redis_url=url))
    assert isinstance(seen, Unknown)
    assert seen.reason
    assert "hunter2" not in seen.reason


def test_a_folder_that_is_not_on_this_host_has_no_room(tmp_path: Path) -> None:
    """A container names its own."""
    found = on_disk(str(tmp_path))
    assert found is not None
    assert found[1] > 0
    assert on_disk(str(tmp_path / "none")) is None
    assert on_disk("") is None
