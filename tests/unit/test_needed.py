"""When there truly was a place for those who were refused."""

from __future__ import annotations

import pytest

from scheduler.needed import REMEMBERED_MOST, REMEMBERED_SECONDS, WORKERS_MOST, Needed


@pytest.fixture
def needed() -> Needed:
    """One that has seen two workers at 100."""
    made = Needed()
    assert made.saw({"one": 50, "two": 7}, 100.0) == []
    return made


def test_a_place_was_free_when_as_many_had_started_as_had_to(needed: Needed) -> None:
    """On whichever worker; not before."""
    needed.refused(3, 101.0)
    assert needed.saw({"one": 51, "two": 8}, 105.0) == []
    assert needed.saw({"one": 52, "two": 8}, 111.0) == [10.0]
    assert needed.saw({"one": 60, "two": 8}, 120.0) == []


def test_starts_between_two_looks_are_even(needed: Needed) -> None:
    """Of ten in ten seconds the fourth came after four."""
    needed.refused(4, 100.0)
    needed.refused(10, 100.0)
    assert needed.saw({"one": 60, "two": 7}, 110.0) == [4.0, 10.0]


def test_who_is_refused_between_two_looks_waited_no_less_than_nothing(needed: Needed) -> None:
    """The first of ten starts may be taken for earlier than the refusal."""
    needed.refused(1, 109.0)
    assert needed.saw({"one": 60, "two": 7}, 110.0) == [0.0]


def test_a_worker_that_comes_or_goes_or_begins_anew_is_counted_right(needed: Needed) -> None:
    """What a new one did it did since; what one that went did not tell of is not known."""
    needed.refused(6, 100.0)
    assert needed.saw({"one": 52}, 101.0) == []
    assert needed.saw({"one": 52, "three": 2}, 102.0) == []
    assert needed.saw({"one": 54, "three": 2}, 104.0) == [4.0]


def test_a_worker_whose_lease_lapsed_comes_back_with_no_new_starts(needed: Needed) -> None:
    """What it had done before it fell silent is no start; what it did meanwhile is."""
    needed.refused(3, 100.0)
    assert needed.saw({"two": 7}, 101.0) == []
    assert needed.saw({"one": 51, "two": 7}, 103.0) == []
    assert needed.saw({"one": 53, "two": 7}, 106.0) == [6.0]


def test_a_worker_that_was_the_only_one_comes_back(needed: Needed) -> None:
    """As if it had been looked at all the time; of many that are gone the oldest is forgotten."""
    assert needed.saw({}, 101.0) == []
    assert needed.saw({"one": 50}, 102.0) == []
    needed.refused(1, 102.0)
    for each in range(WORKERS_MOST + 5):
        assert needed.saw({"one": 50, f"of {each}": 0}, 103.0) == []
    assert len(needed._started) == WORKERS_MOST
    assert needed.saw({"one": 51}, 104.0) == [2.0]


def test_where_a_worker_does_not_tell_nothing_is_known(needed: Needed) -> None:
    """One of an earlier release may have started any number."""
    needed.refused(1, 100.0)
    assert needed.saw({"one": 50, "old": None}, 101.0) == []
    assert needed.saw({"one": 90}, 102.0) == []


def test_without_workers_a_refusal_is_not_remembered() -> None:
    """Nor what was refused before a look."""
    made = Needed()
    made.refused(1, 1.0)
    assert made.saw({"one": 5}, 2.0) == made.saw({"one": 9}, 3.0) == []
    assert made.saw({}, 4.0) == []
    made.refused(1, 4.0)
    assert made.saw({"one": 20}, 5.0) == []


def test_what_takes_too_long_is_forgotten(needed: Needed) -> None:
    """And so is the oldest of too many."""
    needed.refused(1, 100.0)
    assert needed.saw({"one": 50, "two": 7}, 101.0 + REMEMBERED_SECONDS) == []
    assert needed.saw({"one": 70, "two": 7}, 102.0 + REMEMBERED_SECONDS) == []
    for _ in range(REMEMBERED_MOST + 5):
        needed.refused(1, 2000.0)
    assert len(needed.saw({"one": 90, "two": 7}, 2010.0)) == REMEMBERED_MOST
