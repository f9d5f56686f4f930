"""When engines die too often to start another, under a clock that the test turns."""

from __future__ import annotations

import pytest

from tests.waiting import Clock
from workers.breaker import COOLDOWN_SECONDS, DEATHS_MOST, DEATHS_SECONDS, HALF_OPEN_SECONDS, Breaker


@pytest.fixture
def opened(clock: Clock) -> Breaker:
    """One that has just opened."""
    breaker = Breaker(clock)
    for _ in range(DEATHS_MOST):
        breaker.died()
    assert breaker.open
    return breaker


def test_it_opens_after_many_deaths_in_a_while(clock: Clock) -> None:
    """One death fewer leaves it closed; it closes by itself when it has cooled down."""
    breaker = Breaker(clock)
    for _ in range(DEATHS_MOST - 1):
        breaker.died()
        clock.now += 1
    assert not breaker.open
    breaker.died()
    assert breaker.open
    clock.now += COOLDOWN_SECONDS - 0.1
    assert breaker.open
    clock.now += 0.1
    assert not breaker.open


def test_rare_deaths_leave_it_closed(clock: Clock) -> None:
    """Deaths as far apart as the window allows never open it."""
    breaker = Breaker(clock)
    for _ in range(5 * DEATHS_MOST):
        breaker.died()
        assert not breaker.open
        clock.now += DEATHS_SECONDS / (DEATHS_MOST - 1) + 0.1


def test_after_it_cooled_down_one_more_death_opens_it_again(clock: Clock, opened: Breaker) -> None:
    """As often as it comes: what was wrong still is."""
    for _ in range(3):
        clock.now += COOLDOWN_SECONDS
        assert not opened.open
        clock.now += HALF_OPEN_SECONDS - 0.1
        opened.died()
        assert opened.open


def test_an_engine_that_lives_for_a_while_closes_it(clock: Clock, opened: Breaker) -> None:
    """From then on it counts anew: as many deaths as at first are needed."""
    clock.now += COOLDOWN_SECONDS + HALF_OPEN_SECONDS
    for _ in range(DEATHS_MOST - 1):
        opened.died()
        assert not opened.open
    opened.died()
    assert opened.open


def test_it_says_for_how_long(opened: Breaker, clock: Clock) -> None:
    """Less as time passes, and nothing once it is closed."""
    assert opened.open_seconds == COOLDOWN_SECONDS
    clock.now += COOLDOWN_SECONDS - 1
    assert opened.open_seconds == pytest.approx(1)
    clock.now += 2
    assert (opened.open_seconds, opened.open) == (0.0, False)
