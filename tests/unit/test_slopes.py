"""A soak's judge: what grows is seen to, what does not is not, and a new process starts anew."""

from __future__ import annotations

import random

import pytest

from benchmarks.slopes import fit


def noisy(per_hour: float, seed: int, pid: int = 1, start: float = 0.0) -> list[tuple[int, float, float]]:
    """Looks each second for ten minutes at 50 MB, with noise of 0.2 MB."""
    draw = random.Random(seed)
    return [(pid, start + at, 50e6 + per_hour * at / 3600 + draw.gauss(0, 2e5)) for at in range(600)]


@pytest.mark.parametrize("seed", range(5))
def test_growth_is_found_with_its_size(seed: int) -> None:
    """60 MB an hour, within the interval that is told."""
    slope = fit(noisy(60e6, seed), 30)
    assert slope is not None and not slope.flat
    assert abs(slope.per_hour - 60e6) <= 2 * slope.uncertainty < 20e6


def test_what_only_wavers_is_flat() -> None:
    """In most of twenty runs: the interval misses 0 in one of forty on its upper side."""
    slopes = [fit(noisy(0, seed), 30) for seed in range(20)]
    assert sum(slope is not None and slope.flat for slope in slopes) >= 17


def test_each_process_has_a_level_of_its_own() -> None:
    """A new engine that has more than the one before is no growth; what both gain is."""
    higher = [(2, x, y + 30e6) for _, x, y in noisy(0, 2, start=600)]
    flat = fit([*noisy(0, 1), *higher], 30)
    assert flat is not None and abs(flat.per_hour) < 20e6
    both = fit([*noisy(60e6, 1), *((2, x, y + 30e6) for _, x, y in noisy(60e6, 2, start=600))], 30)
    assert both is not None and not both.flat


def test_a_process_that_warms_up_is_given_time() -> None:
    """What it gains at its start is no growth."""
    warming = [(1, float(x), 50e6 * min(1.0, x / 60)) for x in range(600)]
    slope, early = fit(warming, 60), fit(warming, 0)
    assert slope is not None and slope.per_hour == slope.uncertainty == 0
    assert early is not None and early.per_hour > 0


def test_too_little_tells_nothing() -> None:
    """One look, or none after the warm-up."""
    assert fit([], 0) is None
    assert fit([(1, 0.0, 5.0)], 0) is None
    assert fit(noisy(0, 1), 700) is None
