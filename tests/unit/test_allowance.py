"""Tokens a minute: what is left, and when there will be enough, to the token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.allowance import Allowance
from scheduler.keys import TOKENS_PER_MINUTE_MOST

NOW = 1_700_000_000.0


class Bucket:
    """What the server keeps, charged as its commands do."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.full_at = 0

    def take(self, tokens: int, now: float) -> bool:
        """Take so many if they are there."""
        if self.full_at > self.allowance.full_at_most(tokens, now):
            return False
        self.full_at = max(self.full_at, self.allowance.flowed(now)) + tokens
        return True


def test_a_full_bucket_gives_a_minutes_tokens_at_once() -> None:
    """And not one more."""
    bucket = Bucket(Allowance(1000))
    assert [bucket.take(300, NOW) for _ in range(4)] == [True, True, True, False]
    assert bucket.allowance.left(bucket.full_at, NOW) == 100
    assert bucket.take(100, NOW)
    assert not bucket.take(1, NOW)


def test_it_fills_evenly() -> None:
    """600 a minute are ten a second."""
    bucket = Bucket(Allowance(600))
    assert bucket.take(600, NOW)
    assert bucket.allowance.left(bucket.full_at, NOW + 3) == 30
    assert bucket.allowance.seconds_until(45, bucket.full_at, NOW) == pytest.approx(4.5, abs=1e-3)
    assert bucket.allowance.seconds_until_full(bucket.full_at, NOW) == pytest.approx(60, abs=1e-3)


def test_it_never_holds_more_than_a_minutes() -> None:
    """However long nothing was asked."""
    bucket = Bucket(Allowance(60))
    assert bucket.take(60, NOW)
    assert bucket.allowance.left(bucket.full_at, NOW + 1e6) == 60
    assert bucket.take(60, NOW + 1e6)
    assert not bucket.take(1, NOW + 1e6)


ASKED = st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 1200)), min_size=1, max_size=40)


@given(st.integers(1, 2000), ASKED)
def test_over_any_time_no_more_is_given_than_a_minutes_and_what_flowed(
    per_minute: int, asked: list[tuple[int, int]]
) -> None:
    """Times in milliseconds; between any two grants, both counted."""
    bucket, now, given_out = Bucket(Allowance(per_minute)), NOW, list[tuple[float, int]]()
    for wait, tokens in asked:
        now += wait / 1000
        if tokens <= per_minute and bucket.take(tokens, now):
            given_out.append((now, tokens))
    for first, (begin, _) in enumerate(given_out):
        total = 0
        for moment, tokens in given_out[first:]:
            total += tokens
            assert total <= per_minute + (moment - begin) * per_minute / 60 + 1


@given(st.integers(1, TOKENS_PER_MINUTE_MOST), st.data())
def test_the_time_to_come_back_is_true(per_minute: int, data: st.DataObject) -> None:
    """Then, and not a millisecond and a token's worth before, there is enough."""
    bucket = Bucket(Allowance(per_minute))
    spent = data.draw(st.integers(1, per_minute))
    wanted = data.draw(st.integers(1, per_minute))
    assert bucket.take(spent, NOW)
    seconds = bucket.allowance.seconds_until(wanted, bucket.full_at, NOW)
    assert 0 <= seconds <= 60.001
    early = NOW + seconds - 0.001 - 60 / per_minute
    if early > NOW:
        assert not bucket.take(wanted, early)
    assert bucket.take(wanted, NOW + seconds + 2e-6)


def test_counts_are_numbers_that_the_server_holds_exactly() -> None:
    """At the highest rate, for two hundred years from 1970."""
    assert Allowance(TOKENS_PER_MINUTE_MOST).flowed(200 * 365 * 86_400) < 1 << 54
    assert Allowance(TOKENS_PER_MINUTE_MOST).flowed(150 * 365 * 86_400) < 1 << 53
