"""A stream that is waited for, while something else is looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.waiting import wait_until
from tidegate.attention import attended


def test_items_come_as_they_are_and_what_ends_them_too() -> None:
    """In their order; what the iterator raises is raised where they are waited for."""

    def broken() -> Iterator[int]:
        yield from (1, 2)
        raise ZeroDivisionError

    seen: list[int] = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(attended(broken(), lambda: None, 10))
    assert list(attended(iter([1, 2, 3]), lambda: None, 10)) == [1, 2, 3]


def test_a_silent_stream_keeps_nobody_from_looking() -> None:
    """As a part that died must be noticed while an answer is waited for; what the look raises ends the waiting."""
    looks, let_go = 0, threading.Event()

    def silent() -> Iterator[int]:
        let_go.wait(60)
        yield 1

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(attended(silent(), look, 0.001))
    assert looks == 3
    let_go.set()


def test_what_is_left_is_read_no_further() -> None:
    """But for the item that is under way."""
    read: list[int] = []
    go = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            if number:
                go.wait(60)
            read.append(number)
            yield number

    stream = attended(items(), lambda: None, 10)
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    go.set()
    wait_until(lambda: all(each.name != "stream" for each in threading.enumerate()), "the reader is gone")
    assert read == [0, 1]
