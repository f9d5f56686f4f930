"""What a refused client is promised, and whose place is whose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.promise import GRACE_SECONDS, LATE_SECONDS, TWINS_MOST, Booking, Promise, promise, whose

HELD = Booking("a", "1", 110.0, 110.0, 10, "standard")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, Promise(1, 101.0, 101.0)),
        (7.2, Promise(8, 108.0, 108.0)),
        (120.0, Promise(120, 220.0, 220.0)),
        (300.5, Promise(120, 400.5, 220.0)),
    ],
)
def test_nobody_is_told_to_come_before_its_time(seconds: float, told: Promise) -> None:
    """Whole seconds, rounded up; where the time is later than can be told, it stays what it is."""
    assert promise(100.0, seconds) == told


def test_a_place_is_that_of_who_was_told_to_come() -> None:
    """From the moment that it was told on."""
    assert whose([HELD], "a", 110.0, again=None) is HELD
    assert whose([HELD], "b", 110.0, again=True) is None


def test_one_alike_that_nobody_waits_for_is_another() -> None:
    """It comes before the first was told to: it gets a place of its own, unless it says it was here before."""
    assert whose([HELD], "a", 105.0, again=None) is None
    assert whose([HELD], "a", 105.0, again=True) is HELD


def test_one_that_says_it_is_new_takes_no_others_place() -> None:
    """Though it comes when another of its like is expected."""
    assert whose([HELD], "a", 110.0, again=False) is None
    assert whose([HELD] * TWINS_MOST, "a", 110.0, again=False) is HELD


def test_the_first_of_those_alike_comes_first() -> None:
    """Each takes the place whose time came soonest."""
    first, second = replace(HELD, serial="0", come_at=104.0), HELD
    assert whose([second, first], "a", 105.0, again=None) is first
    assert whose([second, first], "a", 111.0, again=None) is first


def test_there_is_an_end_to_those_alike() -> None:
    """So many places, and one more is told of the last one's."""
    many = [replace(HELD, serial=str(number), come_at=110.0 + number) for number in range(TWINS_MOST)]
    assert whose(many[1:], "a", 105.0, again=None) is None
    assert whose(many, "a", 105.0, again=None) is many[-1]


def test_a_place_lapses_after_a_grace() -> None:
    """It keeps newcomers off for a shorter one."""
    assert HELD.keeps_off(110.0 + LATE_SECONDS - 0.01)
    assert not HELD.keeps_off(110.0 + LATE_SECONDS)
    assert HELD.lapses_at == 110.0 + GRACE_SECONDS
