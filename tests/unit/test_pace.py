"""The rate of tokens and of loops, under a clock that the test turns."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from scheduler.forecast import Rates
from tests.waiting import Clock
from workers.pace import Loops, Pace


def test_a_pace_is_tokens_over_seconds(clock: Clock) -> None:
    """Ten tokens every half second are twenty a second."""
    pace = Pace(clock)
    for _ in range(20):
        pace.count(10)
        clock.now += 0.5
    assert pace.tokens_per_second == pytest.approx(20)


def test_a_pace_is_zero_before_anything_was_made(clock: Clock) -> None:
    """Zero, and no division by the zero seconds between tokens of one moment."""
    pace = Pace(clock)
    assert pace.tokens_per_second == 0
    pace.count(5)
    pace.count(5)
    assert pace.tokens_per_second == 0


def test_an_idle_worker_keeps_its_last_pace(clock: Clock) -> None:
    """After an hour of nothing it is what it last was, so that a wait can be foretold."""
    pace = Pace(clock)
    for _ in range(5):
        pace.count(2)
        clock.now += 1
    rate = pace.tokens_per_second
    clock.now += 3600
    assert pace.tokens_per_second == rate == pytest.approx(2)


def test_a_pause_does_not_lower_the_pace(clock: Clock) -> None:
    """Only time in which there was work counts: after 25 idle seconds the rate is the work's own."""
    pace = Pace(clock)
    for _ in range(3):
        pace.count(10)
        clock.now += 1
    clock.now += 25
    for _ in range(3):
        pace.count(10)
        clock.now += 1
    assert pace.tokens_per_second == pytest.approx(10, rel=0.35)


def test_work_is_what_is_made_and_what_is_computed_of_prompts(clock: Clock) -> None:
    """Sixteen tokens a second made, beside a prompt of which a hundred are computed in each."""
    pace = Pace(clock)
    pace.begin()
    for _ in range(20):
        clock.now += 0.5
        pace.count(8, 50)
    assert pace.tokens_per_second == pytest.approx(16)
    assert pace.work_tokens_per_second == pytest.approx(116)


def test_the_rate_of_work_is_that_of_a_full_worker(clock: Clock) -> None:
    """A job alone makes ten a second, eight together eighty: those who wait will wait for eighty."""
    pace = Pace(clock)
    pace.begin()
    for jobs in (1, 1, 1, 8, 8, 1, 1):
        for _ in range(5):
            clock.now += 0.25
            pace.count(jobs * 5 // 2, 0, jobs)
    assert pace.work_tokens_per_second == pytest.approx(80, rel=0.02)
    assert pace.tokens_per_second < 40


def test_a_full_worker_is_forgotten_after_half_a_minute_of_work(clock: Clock) -> None:
    """What it did with eight is then too old to be told."""
    pace = Pace(clock)
    pace.begin()
    for jobs in (8, *(1,) * 33):
        clock.now += 1
        pace.count(jobs * 10, 0, jobs)
    assert pace.work_tokens_per_second == pytest.approx(10)


def test_a_rest_shorter_than_a_pause_is_nobodys_either(clock: Clock) -> None:
    """A worker that gets a job every five seconds is as fast as it is while it works."""
    pace = Pace(clock)
    for _ in range(4):
        clock.now += 5
        pace.begin()
        for _ in range(4):
            clock.now += 0.25
            pace.count(5)
    assert pace.tokens_per_second == pytest.approx(20)


def test_rates_are_known_once_a_step_and_a_prompt_were_seen() -> None:
    """Neither alone tells when jobs end."""
    loops = Loops()
    assert loops.rates is None
    loops.note(0.1, 0)
    assert loops.rates is None
    loops.note(0.3, 100)
    assert astuple(loops.rates or Rates(0, 0)) == (pytest.approx(0.1), pytest.approx(0.002))
    prompt_first = Loops()
    prompt_first.note(0.3, 100)
    assert prompt_first.rates is None


def test_the_last_loops_decide() -> None:
    """Rates follow an engine that has become slower; one outlier, as where kernels are compiled, moves nothing."""
    loops = Loops()
    for step, prompt in ((0.1, 0.3), (0.2, 0.6)):
        for _ in range(100):
            loops.note(step, 0)
            loops.note(prompt, 100)
        assert astuple(loops.rates or Rates(0, 0)) == (
            pytest.approx(step, rel=0.01),
            pytest.approx((prompt - step) / 100, rel=0.02),
        )
    before = loops.rates
    loops.note(12.0, 0)
    loops.note(12.0, 100)
    assert loops.rates == before


def test_a_long_prompt_says_more_than_short_ones() -> None:
    """What a loop takes whatever its prompts is no part of what a token takes: the middle token counts."""
    loops = Loops()
    loops.note(0.1, 0)
    for seconds, tokens in ((0.2, 5), (0.2, 5), (0.2, 5), (1.1, 1000)):
        loops.note(seconds, tokens)
    assert loops.rates is not None and loops.rates.prompt_token_seconds == pytest.approx(0.001)


def test_a_prompt_computed_in_no_time_is_no_error() -> None:
    """A loop with a prompt may be shorter than one without."""
    loops = Loops()
    loops.note(0.2, 0)
    loops.note(0.1, 50)
    loops.note(0.4, 100)
    assert astuple(loops.rates or Rates(0, 0)) == (pytest.approx(0.2), pytest.approx(0.002))
