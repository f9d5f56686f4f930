"""What the comparison of throughput says of what it measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks.points import Point
from benchmarks.throughput import SMALL, figures, table, write_docs


def point(rate: float, first: float = 0.1) -> Point:
    return Point(rate, [first, first, 9.0], [0.01, 0.02])


POINTS = {
    ("sample", 1, "limit"): point(100),
    ("sample", 1, "mlx-lm"): point(90, 0.2),
    ("sample", 1, "vllm-mlx"): point(60, 0.1),
    ("sample", 1, "tidegate"): point(99, 0.1),
    ("small", 32, "limit"): point(1000),
    ("small", 32, "mlx-lm"): point(400, 0.1),
    ("small", 32, "vllm-mlx"): point(500, 0.4),
    ("small", 32, "tidegate"): point(850, 0.2),
}


def test_each_ratio_is_of_the_best_at_its_point() -> None:
    """The fastest peer for the rate, the first to speak for the time; the worst of tidegate's points."""
    assert figures(POINTS) == {
        "worst_ratio_to_limit": 0.99,
        "small_ratio_to_limit": 0.85,
        "worst_ratio_to_peer": 1.1,
        "ttft_ratio_to_peer": 2.0,
        "small_ratio_to_peer_32": 1.7,
    }


def test_what_was_not_measured_is_not_said() -> None:
    """Without peers there is no ratio to them."""
    alone = {where: each for where, each in POINTS.items() if where[2] in {"limit", "tidegate"}}
    assert figures(alone) == {"worst_ratio_to_limit": 0.99, "small_ratio_to_limit": 0.85}


def test_prompts_are_of_one_length_and_never_repeat() -> None:
    """So that nobody has computed one before, in an earlier round neither; 32 bytes each."""
    asked = [
        prompt for c in SMALL.asked for round_ in range(SMALL.rounds) for prompt in SMALL.prompts(c, round_)
    ]
    assert len(set(asked)) == len(asked)
    assert {len(prompt) for prompt in asked} == {32}


def test_the_page_gets_the_table_and_the_picture(tmp_path: Path) -> None:
    """Between its comments, and nothing else of it changes."""
    page = tmp_path / "performance.md"
    page.write_text("# Speed\n<!-- throughput -->\nold\n<!-- /throughput -->\nrest\n")
    write_docs(POINTS, tmp_path)
    text = page.read_text()
    assert table(POINTS) in text and "`worst_ratio_to_limit` 0.99" in text
    assert text.startswith("# Speed\n") and text.endswith("rest\n") and "old" not in text
    assert (tmp_path / "throughput.svg").read_text().count("<svg") == 1


def test_a_table_has_milliseconds() -> None:
    """Medians and the 99th of the first text and of the gaps."""
    assert table(POINTS).splitlines()[2] == "| sample | 1 | limit | 100.0 | 100.0 | 9,000.0 | 10.0 | 20.0 |"


def test_every_client_asks_as_often() -> None:
    """A load that some clients finish sooner would be a smaller one at its end."""
    assert all(requests % concurrency == 0 for concurrency, requests in SMALL.asked.items())
