"""How fast somebody answered at one concurrency."""

import math

import pytest

from benchmarks.points import Point, bare_point, quantile, streamed_point
from benchmarks.sse_clients import Streamed


def streamed(asked: float, *texts: float, tokens: int = 4, reason: str = "length") -> Streamed:
    return Streamed(asked, list(texts), max(texts), "abcd", tokens, reason)


def test_a_rate_is_that_of_all_answers_from_the_first_request_to_the_last_end() -> None:
    made = streamed_point([streamed(10.0, 11.0, 11.5, 12.0), streamed(11.0, 13.0, 14.0)], 4)
    assert made.tokens_per_second == 8 / 4
    assert made.first == [1.0, 2.0]
    assert made.gaps == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("broken", [{"tokens": 3}, {"reason": ""}])
def test_an_answer_that_is_not_whole_is_no_point(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="tokens of 4"):
        streamed_point([streamed(0.0, 1.0), streamed(0.0, 1.0, **broken)], 4)  # type: ignore[arg-type]


def test_the_bare_loop_is_measured_alike() -> None:
    told = {"tokens": 100, "seconds": 4.0, "first_seconds": [0.5], "gap_seconds": [0.01]}
    assert bare_point(told) == Point(25.0, [0.5], [0.01])


def test_a_point_is_shown_in_milliseconds_and_without_times_that_never_were() -> None:
    assert Point(12.34, [0.1, 0.2], []).shown() == {
        "tokens_per_second": 12.3,
        "ttft_p50_ms": 100.0,
        "ttft_p99_ms": 200.0,
        "gap_p50_ms": None,
        "gap_p99_ms": None,
    }


def test_a_quantile_is_the_least_value_that_so_many_do_not_exceed() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert quantile([3.0], 0.5) == 3.0
    assert quantile([], 0.5) == math.inf
