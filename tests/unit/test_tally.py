"""Counts that travel in a worker's report."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from scheduler.errors import ClientError
from scheduler.job import State
from scheduler.measures import MEASURES, code_of
from scheduler.outcome import Outcome
from scheduler.tally import Spread, Tally, started_by

MODELS = {"a|b", "m"}


def carried(tally: Tally) -> Tally:
    """As an API reads it."""
    return Tally.read(json.loads(json.dumps(tally.dump())), MODELS)


def test_what_is_written_is_read() -> None:
    """Counts and distributions, under labels with whatever a model's name has."""
    tally = Tally()
    tally.count("claims", "batch")
    tally.count("claims", "batch", by=2)
    tally.count("completion_tokens", "a|b", by=7)
    tally.count("attempts_failed", "batch", "bug", "job")
    tally.note("wait_seconds", 0.3, "batch")
    tally.note("memory_predicted_over_measured_ratio", 1.0, "m")
    assert carried(tally) == tally
    assert tally.total("claims") == 3


def test_a_value_counts_in_the_first_bucket_that_holds_it() -> None:
    """A bound is its own bucket's, what is beyond the last has one more; a negative wait is none."""
    tally, bounds = Tally(), MEASURES["wait_seconds"].bounds
    for value in (bounds[0], bounds[0] + 0.001, 1e9, -5.0):
        tally.note("wait_seconds", value, "batch")
    spread = tally.spreads["wait_seconds"]["batch",]
    assert spread.counts == [2, 1, *[0] * (len(bounds) - 2), 1]
    assert spread.total == pytest.approx(bounds[0] * 2 + 0.001 + 1e9)


def test_models_that_are_not_wanted_are_left_out() -> None:
    """A worker may serve more than an API lists."""
    tally = Tally()
    tally.count("completion_tokens", "m")
    tally.count("completion_tokens", "other")
    assert carried(tally).counts == {"completion_tokens": {("m",): 1}}


def test_what_an_api_counts_is_not_taken_from_a_worker() -> None:
    """Its labels are free there."""
    tally = Tally()
    tally.count("http_requests", "/v1/jobs", "GET", "200")
    assert carried(tally) == Tally()


GOOD = [1.5, 1, *[0] * len(MEASURES["wait_seconds"].bounds)]


@pytest.mark.parametrize(
    "said", [None, 1, "x", [], {}, {"wait_seconds": None}, {"wait_seconds": {"batch|": GOOD}}]
)
def test_what_is_no_tally_is_an_empty_one(said: Any) -> None:
    """Whoever writes to the server may have written it."""
    assert Tally.read(said, MODELS) == Tally()


@pytest.mark.parametrize(
    "spread",
    [
        GOOD[:-1],
        [*GOOD, 0],
        [-1.0, *GOOD[1:]],
        ["x", *GOOD[1:]],
        [True, *GOOD[1:]],
        [1.0, -1, *GOOD[2:]],
        [1.0, 0.5, *GOOD[2:]],
        7,
    ],
    ids=str,
)
def test_a_distribution_of_other_buckets_or_numbers_is_left_out(spread: Any) -> None:
    """A later release may have others."""
    said = {"wait_seconds": {"batch": spread, "standard": GOOD}}
    assert Tally.read(said, MODELS).spreads == {"wait_seconds": {("standard",): Spread(1.5, GOOD[1:])}}


def test_more_series_than_there_can_be_are_none() -> None:
    """Else a report could have every scrape look at millions."""
    said = {"claims": {"batch": 1, **{f"x{n}": 1 for n in range(2000)}}}
    assert Tally.read(said, MODELS) == Tally()


def test_starts_are_claims_less_those_put_back() -> None:
    """Unknown where a worker does not count them."""
    tally = Tally()
    assert started_by({}) is started_by(None) is started_by({"claims": [3]}) is None
    assert started_by(tally.dump()) == 0
    tally.count("claims", "batch", by=5)
    assert started_by(tally.dump()) == 5
    tally.count("requeues", "batch", "memory", by=2)
    assert started_by(tally.dump()) == 3


def test_an_end_counts_by_its_code_and_what_it_told() -> None:
    """A code that there is not is a bug's."""
    tally = Tally()
    tally.ended(Outcome(State.COMPLETED, {}))
    tally.ended(Outcome(State.FAILED, error=ClientError("queue_timeout", "late", retry_after=9).body()))
    tally.ended(Outcome(State.FAILED, error={"code": "made up", "retry_after": "soon"}))
    ends = {("completed", "none"): 1, ("failed", "queue_timeout"): 1, ("failed", "internal_error"): 1}
    assert tally.counts == {"jobs_ended": ends}
    assert tally.spreads["retry_after_told_seconds"]["queue_timeout",].total == 9
    assert code_of({}) == code_of({"code": []}) == "internal_error"


def test_threads_lose_nothing() -> None:
    """Each increment is its own."""
    tally = Tally()

    def count() -> None:
        for _ in range(20_000):
            tally.count("claims", "batch")
            tally.note("wait_seconds", 1.0, "batch")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.total("claims") == 80_000
    assert tally.spreads["wait_seconds"]["batch",].total == 80_000
