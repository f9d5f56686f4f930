"""What a queue, a process border and HTTP cost before MLX: ``python -m benchmarks.throughput``.

Side by side, in one run, greedily, on the same prompts and for answers of fixed lengths:

``limit``     mlx-lm's ``BatchGenerator`` in a loop in one process, nothing around it
the peers     ``mlx_lm.server``, ``rapid-mlx serve``, ``vllm-mlx serve --continuous-batching``, streaming over HTTP
``tidegate``  the whole stack, streaming over HTTP

Of each model two are measured: the sample model, and a random-weight llama of one layer whose steps take about a
millisecond. Each of that one's points is the middle of three rounds, in each of which all answer in turn; the sample
model, whose steps are slow, has one. Peers that do not answer are stopped meanwhile, so that they take nothing of the
cores; tidegate idles, since a stopped worker would lose its lease. Prints a table, and last one JSON line:

``worst_ratio_to_limit``    tokens/s of tidegate over the limit's, the least of the sample model's points
``small_ratio_to_limit``    the same of the small model, at 32
``worst_ratio_to_peer``     tokens/s over those of the best peer at each point, the least of all
``small_ratio_to_peer_32``  the same of the small model, at 32
``ttft_ratio_to_peer``      the median time to the first text over that of the best peer at each point, the most of all
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks import peers
from benchmarks.arguments import a_folder, parser
from benchmarks.bare_batch import bare_batch
from benchmarks.pages import DOCS, machine, replace_part
from benchmarks.peers import PEERS
from benchmarks.points import Point, bare_point, quantile, streamed_point
from benchmarks.random_models import write_random_llama
from benchmarks.sse_clients import chat_body, drive
from benchmarks.stack import stack

ANSWER_SECONDS: Final = 900.0
LIMIT: Final = "limit"
OWN: Final = "tidegate"


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of one model."""

    model: str
    max_tokens: int
    asked: Mapping[int, int]
    """Requests by concurrency."""

    rounds: int
    prompt: str
    """A round, a concurrency and a number are put in."""

    def prompts(self, concurrency: int, round_: int) -> list[str]:
        """Different ones each time, so that nobody has computed them before; of one length."""
        return [
            self.prompt.format(at=at, round=round_, concurrency=concurrency)
            for at in range(self.asked[concurrency])
        ]


SAMPLE: Final = Load(
    "sample",
    16,
    {1: 4, 4: 4, 16: 16, 32: 32},
    1,
    "{round}.{concurrency:02d}.{at:03d}: tell a story of the sea.",
)
SMALL: Final = Load(
    "small",
    256,
    {1: 10, 4: 32, 16: 128, 32: 192},
    3,
    "{round} {concurrency:02d} {at:03d} the tide comes in, now.",
)


Contender = Callable[[list[str], int, int], Point]
"""Answers prompts, at a concurrency, each so many tokens long."""


def main() -> None:
    """Measure and print."""
    options = parser("throughput", __doc__)
    options.add_argument("--peers-dir", type=Path, default=peers.FOLDER, help="where their environments are")
    options.add_argument(
        "--sample", type=a_folder, help="the sample model's folder; made anew where it is not given"
    )
    options.add_argument("--only", choices=[SAMPLE.model, SMALL.model], help="one model alone")
    options.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    options.add_argument("--without-peers", action="store_true", help="the limit and tidegate alone")
    chosen = options.parse_args()
    points: dict[tuple[str, int, str], Point] = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-throughput-") as folder:
        for load in (SAMPLE, SMALL):
            if chosen.only in {None, load.model}:
                model = _model(load, Path(folder), chosen.sample)
                with contenders(
                    model, Path(folder), None if chosen.without_peers else chosen.peers_dir
                ) as them:
                    points |= measure(load, them)
    print(table(points))
    if chosen.write_docs:
        write_docs(points, DOCS)
    print(json.dumps(figures(points)))


def measure(load: Load, them: Mapping[str, Contender]) -> dict[tuple[str, int, str], Point]:
    """Every contender at every concurrency, in turn."""
    for answer in them.values():
        answer(
            [load.prompt.format(at=999, round=9, concurrency=9)], 1, 4
        )  # whatever is made at a first request
    points: dict[tuple[str, int, str], Point] = {}
    for concurrency in load.asked:
        seen: dict[str, list[Point]] = {name: [] for name in them}
        for round_ in range(load.rounds):
            for name, answer in them.items():
                point = answer(load.prompts(concurrency, round_), concurrency, load.max_tokens)
                seen[name].append(point)
                print(
                    f"{load.model} at {concurrency}: {name} {point.tokens_per_second:,.1f} tokens/s",
                    flush=True,
                )
        points |= {(load.model, concurrency, name): _middle(each) for name, each in seen.items()}
    return points


def _middle(rounds: Sequence[Point]) -> Point:
    """The rounds' median rate, and the times of all of them."""
    rate = statistics.median(each.tokens_per_second for each in rounds)
    return Point(
        rate,
        [second for each in rounds for second in each.first],
        [gap for each in rounds for gap in each.gaps],
    )


def _model(load: Load, folder: Path, sample: Path | None) -> Path:
    """A folder of the model whose answers never end by themselves: so that all are of one length."""
    model = folder / load.model
    if load is SMALL:
        return write_random_llama(model, layers=1, max_position=8192, never_stops=True)
    if sample is None:
        sample = folder / "made"
        subprocess.run([sys.executable, "-m", "workers.sample_model", str(sample)], check=True)
    shutil.copytree(sample, model)
    # A token that it was trained never to write ends its answers instead of the one that it does write.
    for name, key, value in (
        ("config.json", "eos_token_id", 3),
        ("tokenizer_config.json", "eos_token", "<repo_name>"),
    ):
        told = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(told | {key: value}))
    return model


# Who answers


@contextmanager
def contenders(model: Path, folder: Path, peers_dir: Path | None) -> Iterator[dict[str, Contender]]:
    """Everybody with the model loaded; who is not asked is stopped."""
    with ExitStack() as ends:
        bare = ends.enter_context(bare_batch(model))

        def limit(prompts: list[str], concurrency: int, max_tokens: int) -> Point:
            return bare_point(bare.run(prompts, concurrency, max_tokens))

        them: dict[str, Contender] = {LIMIT: limit}
        for peer in PEERS if peers_dir is not None else ():
            assert peers_dir is not None
            python = peers.install(peer, peers_dir)
            served = ends.enter_context(peers.serving(peer, python, model, folder / peer.name))
            them[peer.name] = _http(served.url, served.model_name, [served.process.pid])
            ends.callback(
                _signal, served.process.pid, signal.SIGCONT
            )  # else it would not hear that it is to end
        running = ends.enter_context(stack({model.name: model}))
        them[OWN] = _http(running.url, model.name, [])
        yield them


def _http(url: str, model: str, stopped: Sequence[int]) -> Contender:
    for pid in stopped:
        _signal(pid, signal.SIGSTOP)

    def answer(prompts: list[str], concurrency: int, max_tokens: int) -> Point:
        for pid in stopped:
            _signal(pid, signal.SIGCONT)
        bodies = [chat_body(model, prompt, max_tokens) for prompt in prompts]
        answers = drive(url, bodies, concurrency, ANSWER_SECONDS)
        for pid in stopped:
            _signal(pid, signal.SIGSTOP)
        return streamed_point(answers, max_tokens)

    return answer


def _signal(pid: int, what: signal.Signals) -> None:
    """To a process and its children."""
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        os.kill(process.pid, what)


# What is said


def figures(points: Mapping[tuple[str, int, str], Point]) -> dict[str, float]:
    """What the JSON line says."""
    made: dict[str, float] = {}
    to_limit, to_peer, first = ratios(points, LIMIT), ratios(points), first_ratios(points)
    if sample := [ratio for (model, _), ratio in to_limit.items() if model == SAMPLE.model]:
        made["worst_ratio_to_limit"] = min(sample)
    if (SMALL.model, 32) in to_limit:
        made["small_ratio_to_limit"] = to_limit[SMALL.model, 32]
    if to_peer:
        made["worst_ratio_to_peer"] = min(to_peer.values())
        made["ttft_ratio_to_peer"] = max(first.values())
    if (SMALL.model, 32) in to_peer:
        made["small_ratio_to_peer_32"] = to_peer[SMALL.model, 32]
    return {name: round(value, 3) for name, value in made.items()}


def ratios(
    points: Mapping[tuple[str, int, str], Point], other: str | None = None
) -> dict[tuple[str, int], float]:
    """Tidegate's tokens a second over another's, or over those of the best peer, by model and concurrency."""
    return {
        (model, concurrency): own.tokens_per_second / max(each.tokens_per_second for each in others)
        for (model, concurrency), own, others in _compared(points, other)
    }


def first_ratios(points: Mapping[tuple[str, int, str], Point]) -> dict[tuple[str, int], float]:
    """Tidegate's median time to the first text over the shortest of the peers'."""
    return {
        where: statistics.median(own.first) / min(statistics.median(each.first) for each in others)
        for where, own, others in _compared(points, None)
    }


def _compared(
    points: Mapping[tuple[str, int, str], Point], other: str | None
) -> Iterator[tuple[tuple[str, int], Point, list[Point]]]:
    for (model, concurrency, name), own in points.items():
        if name == OWN:
            others = [
                each
                for (*where, who), each in points.items()
                if where == [model, concurrency] and (who == other if other else who not in {OWN, LIMIT})
            ]
            if others:
                yield (model, concurrency), own, others


def write_docs(points: Mapping[tuple[str, int, str], Point], docs: Path) -> None:
    """The table, the figures and a picture, into the page about speed."""
    from benchmarks.plots import plot_throughput  # noqa: PLC0415 - a run without a picture needs no matplotlib

    drawn = {where: (each.tokens_per_second, quantile(each.first, 0.5)) for where, each in points.items()}
    plot_throughput(drawn, docs / "throughput.svg")
    told = ", ".join(f"`{name}` {value}" for name, value in figures(points).items())
    text = f"![Tokens a second and first text](throughput.svg)\n\n{told}.\n\n{table(points)}\n\nMade on {machine()}."
    replace_part(docs / "performance.md", "throughput", text)


def table(points: Mapping[tuple[str, int, str], Point]) -> str:
    """A line for each point, in Markdown; milliseconds."""
    lines = [
        "| model | at once | who | tokens/s | first text p50, ms | p99 | gap p50, ms | p99 |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for (model, concurrency, name), each in points.items():
        times = [quantile(kind, share) for kind in (each.first, each.gaps) for share in (0.5, 0.99)]
        said = " | ".join(f"{1000 * seconds:,.1f}" for seconds in times)
        lines.append(f"| {model} | {concurrency} | {name} | {each.tokens_per_second:,.1f} | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
