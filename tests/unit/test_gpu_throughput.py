"""Tidegate beside the bare loop and mlx-lm's server on a GPU: what is asked, and what is said of it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jinja2
import pytest

from benchmarks import gpu_throughput as bench
from benchmarks.gpu_page import table, write_docs
from benchmarks.points import Point
from benchmarks.random_models import CHAT_TEMPLATE, SPECIAL_TOKENS


def point(rate: float) -> Point:
    return Point(rate, [0.1], [0.01])


def found() -> bench.Found:
    rates = {
        ("1b", 1): (100.0, 90.0, 99.0),
        ("1b", 32): (5000.0, 1400.0, 4900.0),
        ("8b", 32): (3000.0, 1000.0, 2700.0),
    }
    return bench.Found(
        {
            (name, at, who): point(rate)
            for (name, at), each in rates.items()
            for who, rate in zip(bench.CONTENDERS, each, strict=True)
        }
    )


def test_a_prompt_has_256_tokens_with_its_template_and_none_begins_as_another() -> None:
    asked = [
        *bench.prompts(64, 32, "tide"),
        *bench.prompts(16, 8, "tide"),
        *bench.prompts(4, 1, "tide"),
        *bench.prompts(32, 32, "warm"),
    ]
    assert len({prompt[:12] for prompt in asked}) == len(asked)
    template = jinja2.Environment(autoescape=True).from_string(CHAT_TEMPLATE)
    for prompt in asked:
        chat = template.render(messages=[{"role": "user", "content": prompt}], add_generation_prompt=True)
        for special in SPECIAL_TOKENS:
            chat = chat.replace(special, "\0")
        assert len(chat.encode()) == bench.PROMPT_TOKENS


def test_the_worst_ratios_are_of_all_points_and_of_those_at_32() -> None:
    made = bench.summary(found())
    assert made["gpu_worst_ratio_to_limit"] == 0.9
    assert made["gpu_worst_ratio_to_server_32"] == 2.7
    assert made["points"]["8b"]["32"]["tidegate"]["tokens_per_second"] == 2700.0
    json.dumps(made)


def test_what_was_not_measured_has_no_ratio_and_is_named() -> None:
    part = bench.Found({("1b", 8, "tidegate"): point(1.0)}, {"1b limit": "it died"})
    made = bench.summary(part)
    assert made["gpu_worst_ratio_to_limit"] is None
    assert made["gpu_worst_ratio_to_server_32"] is None
    assert "Not measured: 1b limit: it died" in table(made)


def test_the_docs_get_what_the_gpus_machine_kept(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text("# Speed\n<!-- gpu: by whom -->\n<!-- /gpu -->\n")
    kept = found()
    kept.machine = "a GPU in a box"
    bench.keep(kept, tmp_path)
    write_docs(tmp_path / "gpu_throughput.json", tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "`gpu_worst_ratio_to_limit` 0.9, `gpu_worst_ratio_to_server_32` 2.7." in page
    assert "| 8b | 32 | tidegate | 2,700.0 | 100.0 | 100.0 | 10.0 | 10.0 |" in page
    assert "a GPU in a box" in page
    assert "<svg" in (tmp_path / "gpu-throughput.svg").read_text()


def test_a_contender_that_fails_leaves_the_others_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def starting(who: str, model: Path, scratch: Path, out: Path | None) -> Iterator[bench.Contender]:
        if who == "server":
            raise OSError("no such server")
        yield lambda asked, concurrency, tokens: point(float(concurrency))

    monkeypatch.setattr(bench, "starting", starting)
    results, clock = bench.Found(), bench.Clock(time.monotonic(), 60.0)
    for who in bench.CONTENDERS:
        bench.try_one(results, ("tiny", who), tmp_path / "tiny", tmp_path, clock)
    assert {who for *_, who in results.points} == {"limit", "tidegate"}
    assert results.failed == {"tiny server": "OSError: no such server"}
    kept = json.loads((tmp_path / "gpu_throughput.json").read_text())
    assert kept["gpu_worst_ratio_to_limit"] == 1.0


def test_nothing_new_begins_when_it_is_late() -> None:
    def never(asked: list[str], concurrency: int, tokens: int) -> Point:
        raise AssertionError("asked all the same")

    results = bench.Found()
    bench.measure(results, ("8b", "limit"), never, bench.Clock(time.monotonic() - 10.0, 5.0))
    assert results.points == {}
    assert results.failed["8b limit at 32"] == "no time was left"
