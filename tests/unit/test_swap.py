"""The wire form of a swap, and the server's refusals that say: later."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from scheduler.errors import StoreUnavailable
from scheduler.swap import Guard, Swap, Swapper, encode


def test_nothing_is_a_zero() -> None:
    """No swaps, and a swap without anything."""
    assert encode([]) == [0]
    assert encode([Swap()]) == [1, 0, 0]


def test_swaps_are_written_with_their_counts() -> None:
    """Count of swaps; of guards, each op, expected, argc, args; of commands, each argc, args."""
    swap = Swap(
        (Guard(("HGET", "k", "f"), "v"), Guard(("HLEN", "k"), 9, "<=")),
        (("SET", "a", b"\x00"), ("DEL", "a")),
    )
    first = [
        2,
        "=",
        "v",
        3,
        "HGET",
        "k",
        "f",
        "<=",
        9,
        2,
        "HLEN",
        "k",
        2,
        3,
        "SET",
        "a",
        b"\x00",
        2,
        "DEL",
        "a",
    ]
    assert encode([swap, Swap((), (("PING",),))]) == [2, *first, 0, 1, 1, "PING"]


class Refusing:
    """A connection whose server refuses every script."""

    def __init__(self, said: str) -> None:
        self.said = said

    def register_script(self, _: str) -> Any:
        def script(**_: Any) -> None:
            raise ResponseError(self.said)

        return script


@pytest.mark.parametrize(
    ("said", "later"),
    [
        ("MISCONF Errors writing to the AOF file: No space left on device", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("BUSY Valkey is busy running a script.", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("ERR value is not an integer or out of range", False),
        ("MISCONFIGURED", False),
    ],
)
def test_a_refusal_says_whether_it_passes(said: str, later: bool) -> None:
    """Those of the server's condition are StoreUnavailable; those of what was asked stay as they are."""
    refusing: Any = Refusing(said)
    with pytest.raises(StoreUnavailable if later else ResponseError, match=said.split(maxsplit=1)[0]):
        Swapper(refusing)(Swap())
