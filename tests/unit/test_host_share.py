"""What a worker gets of its host's memory, and what one that gets nothing is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.host_share import HostFull, Share, Wish, decide, dump, parse

GIB = 1 << 30
RAM = {"host_total": 16 * GIB}


def share(size: int, *pools: str, worker: str = "one", pid: int = 11) -> Share:
    return Share(worker, pid, "pid:[1]", size, pools or ("host_total",), 15.0)


def test_a_lone_worker_has_the_least_of_its_pools() -> None:
    """RAM and a cgroup's limit both bind it."""
    assert decide(Wish("w", {"host_total": 16, "cgroup_total 7": 9}), []) == 9


@pytest.mark.parametrize("setting", [1, 16 * GIB, 17 * GIB])
def test_a_lone_workers_setting_stands(setting: int) -> None:
    """Even where it is more than there is: the operator knows better."""
    assert decide(Wish("w", RAM, setting), []) == setting


def test_a_second_worker_gets_what_is_left() -> None:
    """To the byte; what was set fits or does not, to the byte."""
    held = [share(10 * GIB), share(2 * GIB, worker="two")]
    assert decide(Wish("w", RAM), held) == 4 * GIB
    assert decide(Wish("w", RAM, 4 * GIB), held) == 4 * GIB
    with pytest.raises(HostFull):
        decide(Wish("w", RAM, 4 * GIB + 1), held)


def test_what_is_of_no_use_is_not_taken() -> None:
    """Less than the least, or nothing at all."""
    held = [share(15 * GIB)]
    assert decide(Wish("w", RAM, least_bytes=GIB), held) == GIB
    for wish in (Wish("w", RAM, least_bytes=GIB + 1), Wish("w", {"host_total": 15 * GIB})):
        with pytest.raises(HostFull):
            decide(wish, held)


def test_pools_of_their_own_keep_workers_apart() -> None:
    """Two GPUs of one host; the GPU's memory and RAM."""
    held = [share(80 * GIB, "cuda_total GPU-a")]
    assert decide(Wish("w", {"cuda_total GPU-b": 80 * GIB}), held) == 80 * GIB
    assert decide(Wish("w", RAM), held) == 16 * GIB


def test_every_pool_binds() -> None:
    """A neighbour in the same cgroup takes from both, one outside from RAM alone; the tighter one decides."""
    pools = {"host_total": 16, "cgroup_total 7": 8}
    assert decide(Wish("w", pools), [share(6, "host_total")]) == 8
    assert decide(Wish("w", pools), [share(6, "host_total", "cgroup_total 7")]) == 2
    assert decide(Wish("w", pools), [share(6, "host_total", "cgroup_total 7"), share(9)]) == 1


def test_a_refusal_names_every_holder_and_what_is_left() -> None:
    """With its process and its bytes, the largest first; of a foreign name only what a terminal may show."""
    held = [share(2 * GIB), share(13 * GIB, worker="b\x1b[2J", pid=7), share(5, "cuda_total x", worker="gpu")]
    with pytest.raises(HostFull) as full:
        decide(Wish("w", RAM, 3 * GIB), held)
    assert str(full.value) == (
        "no room for worker w in this host's memory: worker b?[2J (pid 7) holds 13.0 GiB (13,958,643,712 "
        "bytes), worker one (pid 11) holds 2.0 GiB (2,147,483,648 bytes); 1.0 GiB (1,073,741,824 bytes) of "
        "16.0 GiB are left, and TIDEGATE_MEMORY_BUDGET asks for 3.0 GiB. Stop a worker, or give each its part "
        "by TIDEGATE_MEMORY_BUDGET"
    )
    assert full.value.holders == (held[0], held[1])
    with pytest.raises(HostFull, match=r"the smallest model served needs 2\.0 GiB"):
        decide(Wish("w", RAM, least_bytes=2 * GIB), held)


def test_shares_are_read_as_they_were_written() -> None:
    """By their tokens."""
    shares = {"a": share(5), "b": share(7, "host_total", "metal_working_set", worker="é\n")}
    assert parse(dump(shares)) == parse(dump(shares).encode()) == shares


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe", b"null", b"7", b"[]", b"{", b"[" * 100_000, b'{"a": 1}', b'{"a": {"worker": "w"}}'],
)
def test_what_is_no_share_is_left_out(text: bytes) -> None:
    """Whatever is found there."""
    assert parse(text) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"share_bytes": -1},
        {"share_bytes": 1 << 62},
        {"share_bytes": "lots"},
        {"pid": None},
        {"pools": "host_total"},
        {"lease_seconds": 0},
        {"lease_seconds": float("inf")},
        {"worker": 5},
    ],
    ids=str,
)
def test_one_odd_share_does_not_hide_the_others(change: dict[str, Any]) -> None:
    """Those beside it count."""
    entries = json.loads(dump({"a": share(5), "odd": share(6)}))
    entries["odd"] |= change
    assert parse(json.dumps(entries)) == {"a": share(5)}


def test_fields_of_a_later_release_are_carried() -> None:
    """The share counts, and is written back whole."""
    entries = json.loads(dump({"a": share(5)}))
    entries["a"]["colour"] = "blue"
    assert parse(json.dumps(entries)) == {"a": share(5)}
    assert json.loads(dump(parse(json.dumps(entries)))) == entries
