"""When jobs that wait will start, from boards laid out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from scheduler.clock import (
    COOLING_MOST_SECONDS,
    DEFAULT_TOKENS_PER_SECOND,
    SLOWER,
    STALE_SECONDS,
    Starts,
    Work,
    seconds_until_free,
    soon_tokens,
    total,
)
from scheduler.verdict import WorkerView

IDLE = WorkerView("w", 1000, 512, frozenset({"m"}), {}, headroom_bytes=400, max_batch=4)
FULL = replace(
    IDLE,
    headroom_bytes=0,
    seconds_to_free=((3.0, 100), (1.0, 100), (7.0, 100), (5.0, 100)),
    work_tokens_per_second=40.0,
)
"""Four running jobs; a job of 80 tokens stays for 8 s, its fourth of 40 tokens a second being 10."""


def starts(*workers: WorkerView, jobs: int = 10, tokens: int = 80, need: int = 0, now: float = 0.0) -> Starts:
    """The clock where so many jobs of so many tokens wait."""
    return Starts(workers, Work(jobs, jobs * tokens), tokens, need, now)


@pytest.mark.parametrize(
    ("need", "seconds"), [(0, 0.0), (10, 0.0), (11, 2.0), (30, 2.0), (31, 5.0), (60, 5.0), (61, None)]
)
def test_memory_comes_free_as_jobs_end(need: int, seconds: float | None) -> None:
    """Soonest first, whatever the order in which they are told."""
    assert seconds_until_free([(5.0, 30), (2.0, 20)], 10, need) == seconds


def test_the_next_job_takes_the_place_that_comes_free_soonest() -> None:
    """The running jobs' ends first; then those of the jobs that took their places, 8 s later."""
    clock = starts(FULL)
    assert [clock.nth(count) for count in range(10)] == [0, 1, 3, 5, 7, 9, 11, 13, 15, 17]


def test_free_places_are_taken_at_once() -> None:
    """As many as memory and the batch leave; an idle worker has one, however little memory it tells of."""
    some = replace(FULL, seconds_to_free=FULL.seconds_to_free[:2], headroom_bytes=150)
    assert [starts(some).nth(count) for count in (1, 2, 3)] == [0.0, 1.0, 3.0]
    assert [starts(IDLE, need=150).nth(count) for count in (1, 2, 3)] == [0.0, 0.0, 8.0]
    assert starts(replace(IDLE, headroom_bytes=0), need=150).nth(1) == 0.0


@pytest.mark.parametrize("need", [0, 70])
def test_one_question_is_answered_as_if_all_starts_were_followed(need: int) -> None:
    """The starts that are passed over together change nothing, however far back a job waits."""
    odd = replace(
        FULL, name="odd", work_tokens_per_second=7.3, seconds_to_free=((0.3, 40), (91.0, 40)), max_batch=9
    )
    for workers in ((FULL,), (IDLE,), (FULL, odd), (odd, IDLE, FULL)):
        for ahead in (*range(40), 63, 100, 400, 510, 511, 512, 5000):
            asked, followed = starts(*workers, need=need), starts(*workers, need=need)
            followed.nth(1)  # so that it follows them one by one
            assert asked.own(ahead) == pytest.approx(followed.own(ahead), rel=1e-9)


def test_workers_share_what_waits() -> None:
    """Two workers start twice as many."""
    assert starts(FULL, replace(FULL, name="v")).nth(8) == starts(FULL).nth(4)


def test_a_far_start_comes_at_the_workers_rate() -> None:
    """Half a job of 80 tokens a second, of 40 tokens a second: the ten-thousandth in twenty thousand seconds."""
    assert starts(FULL).nth(10_000) == pytest.approx(20_000, rel=0.001)


def test_a_report_ages() -> None:
    """What was to end has ended since, and its place is taken; a report is never taken for ancient."""
    said = replace(FULL, reported_at=1000.0)
    assert [starts(said, now=1002.0).nth(count) for count in (1, 2, 3, 4)] == [1.0, 3.0, 5.0, 7.0]
    assert starts(said, jobs=0, now=1002.0).nth(1) == 0.0
    late, ancient = (starts(said, now=1000.0 + age).nth(1) for age in (STALE_SECONDS, 1e6))
    assert late == ancient
    assert starts(said, now=0.0).nth(1) == 1.0


def test_a_place_that_was_free_is_taken_where_many_wait() -> None:
    """A report of two seconds ago: one job more waits than it had room for, so others have started since."""
    said = replace(IDLE, max_batch=2, reported_at=1000.0, work_tokens_per_second=40.0)
    assert starts(said, jobs=3, now=1002.0).nth(1) == 4.0 - 1.0
    assert starts(said, jobs=2, now=1002.0).nth(1) == 0.0
    assert starts(said, jobs=3, now=1000.0).nth(1) == 0.0


def test_the_rate_is_that_of_work_and_else_that_of_tokens_made() -> None:
    """Until anything was measured, a small model's on a laptop."""
    made = replace(FULL, work_tokens_per_second=0.0, tokens_per_second=20.0)
    assert starts(made).nth(5) == 1.0 + 16.0
    unknown = replace(IDLE, max_batch=1)
    assert starts(unknown).nth(2) == 80 / DEFAULT_TOKENS_PER_SECOND
    assert not starts(unknown).measured
    assert starts(unknown, made).measured


def test_without_a_worker_there_is_an_answer_all_the_same() -> None:
    """As if one small worker were there."""
    assert starts().nth(3) == 2 * 80 / DEFAULT_TOKENS_PER_SECOND
    assert starts().own(0) == 0.0


def test_a_large_job_waits_until_its_memory_is_there() -> None:
    """It takes as many places as it needs of the usual size, of which the last counts."""
    assert starts(FULL, need=100).own(0) == 1.0
    assert starts(FULL, need=250).own(0) == 5.0
    assert starts(FULL, need=100).own(2) == 5.0
    assert starts(FULL, need=200).own(2) == 7.0
    assert starts(FULL, need=5000).own(0) >= 7.0
    spacious = replace(FULL, headroom_bytes=5000, max_batch=4)
    assert starts(spacious, need=5000).own(2) == 5.0


def test_what_is_promised_is_later_than_what_is_expected() -> None:
    """By the slower rate that a worker may turn out to have, and by how far a count strays."""
    clock = starts(FULL)
    assert clock.surely(0) == 0.0
    assert clock.surely(16) == pytest.approx(SLOWER * clock.nth(18))
    promised = [clock.surely(count) for count in range(200)]
    assert all(one <= next_one for one, next_one in pairwise(promised))
    assert all(clock.nth(count) <= each for count, each in enumerate(promised))


def test_counts_and_moments_are_two_sides() -> None:
    """So many have started by the moment when so many have, and not before it."""
    clock = starts(FULL)
    moments = [clock.surely(count) for count in (1, 5, 50, 700)]
    assert clock.surely_by(moments) == [1, 5, 50, 700]
    assert clock.surely_by([-1.0, 0.0, moments[1] - 0.01]) == [0, 0, 4]
    assert [clock.by(seconds) for seconds in (0.5, 1.0, 9.0)] == [0, 1, 5]
    assert clock.by(20_000.0) == pytest.approx(10_000, rel=0.001)


@pytest.mark.parametrize(
    "odd",
    [
        replace(FULL, max_batch=1 << 60, headroom_bytes=1 << 200),
        replace(FULL, work_tokens_per_second=1e-300),
        replace(FULL, headroom_bytes=-(1 << 60)),
        replace(FULL, seconds_to_free=((0.0, 0), (0.0, -5))),
    ],
    ids=["endless", "slow", "in debt", "negative"],
)
def test_whatever_a_worker_says_there_is_an_answer(odd: WorkerView) -> None:
    """A number, in bounded time and memory."""
    clock = starts(odd, need=10)
    assert clock.own(5) >= 0.0
    assert clock.surely(1000) >= clock.nth(1000) >= 0.0


def test_what_may_wait_for_a_start_in_time_is_quickly_bounded() -> None:
    """What four seconds of running jobs leave of ten, at forty tokens a second; nothing where nothing is left."""
    assert soon_tokens([FULL], 10.0) == 40.0 * 6.0
    assert soon_tokens([FULL, IDLE], 3.0) == 0.0
    assert soon_tokens([IDLE], 10.0) == soon_tokens([], 10.0) == math.inf
    for tokens in (0, 80, 240):
        clock = Starts([FULL], Work(tokens // 80, tokens), 80)
        assert clock.own(tokens // 80) <= 10.0


def test_work_is_summed() -> None:
    """Jobs and tokens."""
    assert total([(1, 10), (2, 20)]) == Work(3, 30)
    assert total([]) == Work(0, 0)


def test_a_worker_that_cools_down_starts_nothing_before_it_is_cool() -> None:
    """Alone it keeps everybody waiting; beside another it is only later; what it says is believed for a while."""
    hot = replace(IDLE, cools_until=130.0)
    assert [starts(hot, now=100.0).nth(count) for count in (1, 2)] == [30.0, 30.0]
    assert starts(hot, jobs=0, now=100.0).own(0) == 30.0
    assert starts(hot, IDLE, jobs=0, now=100.0).own(0) == 0.0
    assert starts(hot, jobs=0, now=140.0).own(0) == 0.0
    assert starts(replace(IDLE, cools_until=1e18), jobs=0, now=100.0).own(0) == COOLING_MOST_SECONDS
