"""The wire form of a swap."""

from __future__ import annotations

from scheduler.swap import Guard, Swap, encode


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
