"""A mixed workload, and what an answer in it is worth."""

import asyncio
import math
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mixed
from benchmarks.mixed_load import CLASSES, MODELS, Job, figures, is_good, jobs, ratio_to_peer
from benchmarks.offered import scaled_seconds
from benchmarks.peers import PEERS, Peer, RunningPeer
from benchmarks.plots import bar_mixed
from benchmarks.sse_clients import Streamed
from benchmarks.two_models import Route, Server, both
from benchmarks.workload import draw_trace


def job(priority: str = "interactive", tokens: int = 10) -> Job:
    return Job(0.0, priority, "small", "Be kind.", "Hello", tokens, None)


def answer(first: float, end: float, reason: str = "length", error: str = "") -> Streamed:
    return Streamed(100.0, [100.0 + first, 100.0 + end], 100.0 + end, "ab", 2, reason, error)


def test_everyone_gets_the_very_same_jobs() -> None:
    trace = draw_trace()
    assert jobs(trace, 30, 2) == jobs(trace, 30, 2)


def test_a_load_has_both_classes_both_models_seeds_and_four_system_prompts() -> None:
    load = jobs(draw_trace(), 100, 3)
    assert len(load) == pytest.approx(300, rel=0.05)
    assert load[-1].at_seconds == pytest.approx(100, rel=0.05)
    assert {each.priority for each in load} == set(CLASSES)
    assert {each.model for each in load} == set(MODELS)
    assert sorted({len(each.system) for each in load}) == [300, 400, 500, 600]
    assert len({each.system for each in load}) == 4
    assert sum(each.seed is not None for each in load) == pytest.approx(len(load) / 3, abs=1)


def test_batch_jobs_are_the_long_ones() -> None:
    load = jobs(draw_trace(), 100, 3)
    longest = max(each.max_tokens for each in load if each.priority == "interactive")
    assert longest <= min(each.max_tokens for each in load if each.priority == "batch")


def test_a_server_is_asked_by_its_own_names() -> None:
    body = job().body("/models/small")
    assert body["model"] == "/models/small"
    assert [each["role"] for each in body["messages"]] == ["system", "user"]
    assert "seed" not in body


@pytest.mark.parametrize(
    ("first", "end", "good"), [(2.0, 3.0, True), (2.1, 2.5, False), (0.1, 3.1, False), (0.1, 0.2, True)]
)
def test_an_interactive_answer_is_good_that_begins_in_two_seconds_and_keeps_up_with_a_reader(
    first: float, end: float, good: bool
) -> None:
    assert is_good(job(tokens=10), answer(first, end)) is good


def test_a_batch_answer_is_good_whenever_it_is_whole() -> None:
    assert is_good(job("batch"), answer(15.0, 19.0))
    assert not is_good(job("batch"), answer(15.0, 19.0, reason="stop"))
    assert not is_good(job("batch"), answer(15.0, 19.0, error="TimeoutError: "))


def test_goodput_counts_good_answers_only_and_what_never_came_is_infinitely_late() -> None:
    asked = [job(tokens=10), job(tokens=20), job("batch", 100), job("batch", 200)]
    answers = [answer(0.5, 1.0), answer(5.0, 6.0), answer(8.0, 9.0), Streamed(100.0, error="refused")]
    made = figures(asked, answers)
    assert (made["interactive"].good, made["interactive"].good_tokens) == (1, 10)
    assert (made["batch"].good, made["batch"].answered, made["batch"].good_tokens) == (1, 1, 100)
    assert made["interactive"].first_p50 == pytest.approx(0.5)
    assert made["batch"].done_p99 == math.inf
    assert made["batch"].shown(10.0)["done_p99_s"] is None
    assert made["batch"].shown(10.0)["goodput"] == 10.0


@pytest.mark.parametrize(
    ("goodputs", "ratio"),
    [
        ({"tidegate": 300.0, "a": 100.0, "b": 150.0}, 2.0),
        ({"tidegate": 300.0}, None),
        ({"a": 100.0}, None),
        ({"tidegate": 300.0, "a": 0.0}, None),
    ],
)
def test_the_ratio_is_to_the_best_peer(goodputs: dict[str, float], ratio: float | None) -> None:
    assert ratio_to_peer(goodputs) == ratio


def test_a_sample_stands_for_all_jobs_of_its_model() -> None:
    asked: list[tuple[int, int, int]] = []

    def run(prompts: list[str], concurrency: int, tokens: int) -> dict[str, Any]:
        asked.append((len(prompts), concurrency, tokens))
        return {"seconds": 6.0}

    assert scaled_seconds([job(tokens=10), job(tokens=30)] * 30, run, 12) == 6.0 / 12 * 60
    assert asked == [(12, 12, 20)]


@pytest.mark.parametrize(
    ("peer", "started"), [("mlx-lm", ["small"]), ("rapid-mlx", ["small"]), ("vllm-mlx", ["small", "large"])]
)
def test_a_peer_that_cannot_serve_two_models_is_a_process_for_each(
    peer: str, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    loaded: list[str] = []

    @contextmanager
    def serving(peer: Peer, python: Path, model: Path, scratch: Path) -> Iterator[RunningPeer]:
        begun.append(model.name)
        ended = subprocess.Popen(["/bin/true"])
        ended.wait()
        yield RunningPeer(peer, model, f"http://127.0.0.1:{len(begun)}", ended, scratch / "log")

    monkeypatch.setattr("benchmarks.peers.serving", serving)
    monkeypatch.setattr("benchmarks.two_models._load", lambda route: loaded.append(route.name))
    models = {name: Path("/m") / name for name in MODELS}
    which = next(each for each in PEERS if each.name == peer)
    with both(which, Path("python"), models, Path("/scratch")) as server:
        urls = {route.url for route in server.routes.values()}
        assert {name: route.name for name, route in server.routes.items()} == {
            "small": "/m/small",
            "large": "/m/large",
        }
        assert server.exit_code() == 0
    assert begun == started
    assert len(urls) == len(started)
    assert loaded == (["/m/large"] if peer == "rapid-mlx" else [])


def trial(server: str, seconds: float) -> mixed.Trial:
    asked = [job(tokens=10), job("batch", 100)]
    return mixed.Trial(server, figures(asked, [answer(seconds, seconds), answer(9.0, 9.0)]), Counter(), None)


def test_the_summary_compares_tidegate_with_the_best_peer() -> None:
    made = mixed.summary([trial("tidegate", 1.0), trial("slow", 3.0)], 10.0)
    assert made["goodput"] == {"tidegate": 11.0, "slow": 10.0}
    assert made["goodput_ratio_to_peer"] == pytest.approx(1.1)
    assert made["slow"]["interactive"]["good"] == 0


def test_the_docs_get_the_table_and_the_picture(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text("# Speed\n<!-- mixed -->\n<!-- /mixed -->\n")
    trials = [trial("tidegate", 1.0), trial("slow", 3.0)]
    made = mixed.summary(trials, 10.0) | {
        "seconds": 10.0,
        "per_second": 2.5,
        "source": "a trace",
        "machine": "a box",
        "load": {"one_at_a_time": 2.0, "batched": 1.0},
        "failed": {"gone": "it did not start"},
    }
    mixed.write_docs(trials, made, tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "| tidegate | interactive | 1 | 1 | 1 | 1 |" in page
    assert "a box" in page
    assert "Not measured: gone: it did not start" in page
    assert "<svg" in (tmp_path / "mixed.svg").read_text()


def test_what_never_came_can_be_drawn(tmp_path: Path) -> None:
    rows = {"goodput": 0.0, "first_p99_s": None}
    bar_mixed({"mute": {"interactive": rows, "batch": rows}}, tmp_path / "never.svg", 60.0)
    assert "never" in (tmp_path / "never.svg").read_text()


def test_jobs_are_asked_at_their_moments_and_left_when_the_run_ends() -> None:
    """A server that takes requests and says nothing."""

    async def run() -> list[Streamed]:
        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_server(mute, "127.0.0.1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            server = Server({"small": Route(f"http://127.0.0.1:{port}", "small")}, lambda: None)
            later = Job(0.2, "batch", "small", "s", "u", 5, None)
            return await mixed.put(server, [job(), later], 0.5)

    began = time.monotonic()
    answers = asyncio.run(run())
    assert answers[1].asked_at >= began + 0.2
    assert all(each.error.startswith("TimeoutError") for each in answers)
    assert all(each.ended_at - answers[0].asked_at < 5 for each in answers)
