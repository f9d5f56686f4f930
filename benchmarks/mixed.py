"""Two models and two classes of jobs at once: ``python -m benchmarks.mixed``.

The workload is :mod:`benchmarks.mixed_load`'s: 5 requests a second for two minutes. Its models are random-weight
float32 llamas of 4 and 13 million parameters, so that two cores have about twice as much to do as they can when all is
batched and nothing kept: ``load`` says how much, measured beside (:mod:`benchmarks.offered`). At half of that rate
tidegate and vllm-mlx both meet every target, and nothing is to be seen. All servers get the very same requests at the same moments, each from a client of its own that streams
over ``/v1/chat/completions`` and leaves, without asking again, when it is refused or when the run ends, 20 s after
the last arrival. tidegate is told the class of each, which peers ignore, as they do other fields they do not know.

Beside tidegate, from PyPI in environments of their own: mlx-lm, rapid-mlx and vllm-mlx, with all their defaults and
both models (:mod:`benchmarks.two_models`; vllm-mlx is a process for each), each server warmed up by a request to
each model. Takes some eleven minutes in all. Prints a table, then one JSON line:

``goodput_ratio_to_peer``   tidegate's goodput over the best peer's; goal: at least 2
``goodput``                 by server: tokens a second of answers that met their class's targets
``load``                    what the workload takes a bare loop over mlx-lm's batch generator, over the time in
                            which it arrives: ``one_at_a_time``, and ``batched``, 12 at a time
``SERVER``                  by class: jobs, how many were answered and how many were good, goodput, and seconds to
                            the first text and to the end, p50 and p99 (null: so many were never answered);
                            ``exit`` is how the server ended, null where it still ran
``failed``                  servers that were not measured, and why: the ratio is without them

With ``--write-docs`` the table and a picture go into ``docs/``.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import peers
from benchmarks.arguments import parser, positive
from benchmarks.mixed_load import ClassFigures, Job, figures, goodput, jobs, ratio_to_peer
from benchmarks.offered import offered
from benchmarks.pages import DOCS, machine, replace_part
from benchmarks.peers import PEERS, PeerFailed
from benchmarks.sse_clients import Streamed, ask, chat_body
from benchmarks.two_models import Server, both, tidegate
from benchmarks.workload import draw_trace, find_trace, read_trace

SIZES: Final[dict[str, dict[str, Any]]] = {
    "small": {"layers": 2, "hidden": 384, "heads": 6, "kv_heads": 2, "intermediate": 1152},
    "large": {"layers": 4, "hidden": 512, "heads": 8, "kv_heads": 4, "intermediate": 1536},
}
SECONDS: Final = 120.0
PER_SECOND: Final = 5.0
GRACE_SECONDS: Final = 20.0
WARM_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What one server did."""

    server: str
    by_class: dict[str, ClassFigures]
    errors: Counter[str]
    exit_code: int | None


def main() -> None:
    """Measure and print."""
    options = parser("mixed", __doc__)
    options.add_argument(
        "--peers-dir", type=Path, default=peers.FOLDER, help="where the environments are kept"
    )
    options.add_argument(
        "--only", nargs="+", choices=["tidegate", *(peer.name for peer in PEERS)], help="these servers alone"
    )
    options.add_argument("--seconds", type=positive, default=SECONDS, help="for which requests arrive")
    options.add_argument("--per-second", type=positive, default=PER_SECOND, help="how many arrive")
    options.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    chosen = options.parse_args()
    found = find_trace()
    load = jobs(read_trace(found) if found else draw_trace(), chosen.seconds, chosen.per_second)
    seconds = load[-1].at_seconds + GRACE_SECONDS
    trials: list[Trial] = []
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-mixed-") as folder:
        models = write_models(Path(folder))
        share = {name: round(each, 2) for name, each in offered(load, models, load[-1].at_seconds).items()}
        print(f"load: {share}", flush=True)
        for name in chosen.only or ("tidegate", *(peer.name for peer in PEERS)):
            try:
                server = _server(name, models, Path(folder) / name, chosen.peers_dir)
                trials.append(run(name, server, load, seconds))
            except PeerFailed as failed:
                print(failed, file=sys.stderr, flush=True)
                missing[name] = str(failed)[:500]
                continue
            print(table(trials[-1:], seconds), flush=True)
    source = (
        f"the trace {found.name}" if found else "requests drawn with the moments of Azure's trace of 2023"
    )
    made = {
        "machine": machine(),
        "source": source,
        "per_second": chosen.per_second,
        "seconds": round(seconds, 1),
        "load": share,
    }
    made |= summary(trials, seconds) | {"failed": missing}
    print(table(trials, seconds))
    print(json.dumps(made), flush=True)
    if chosen.write_docs:
        write_docs(trials, made, DOCS)


def write_models(folder: Path) -> dict[str, Path]:
    """Both models, by name."""
    from benchmarks.random_models import write_random_llama  # noqa: PLC0415 - only here is MLX needed

    return {name: write_random_llama(folder / name, never_stops=True, **size) for name, size in SIZES.items()}


def _server(
    name: str, models: Mapping[str, Path], scratch: Path, peers_dir: Path
) -> AbstractContextManager[Server]:
    if name == "tidegate":
        return tidegate(models)
    peer = next(peer for peer in PEERS if peer.name == name)
    return both(peer, peers.install(peer, peers_dir), models, scratch)


def run(name: str, starting: AbstractContextManager[Server], load: Sequence[Job], seconds: float) -> Trial:
    """Start a server, warm it up, put the load on it, and end it.

    Raises:
        PeerFailed: it does not start, or does not answer a short request to each model.
    """
    with starting as server:
        for route in server.routes.values():
            warm = asyncio.run(ask(route.url, chat_body(route.name, "Is anybody there?", 4), WARM_SECONDS))
            if not warm.answered:
                raise PeerFailed(f"{name} does not answer for {route.name}: {warm.error}")
        answers = asyncio.run(put(server, load, seconds))
        said = Counter(answer.error[:120] for answer in answers if answer.error)
        return Trial(name, figures(load, answers), said, server.exit_code())


async def put(server: Server, load: Sequence[Job], seconds: float) -> list[Streamed]:
    """Ask everything, each at its moment; what is not answered when the run ends is left.

    Args:
        server: that is asked.
        load: by moment.
        seconds: of the run.
    """
    began = time.monotonic()

    async def client(job: Job) -> Streamed:
        await asyncio.sleep(began + job.at_seconds - time.monotonic())
        route = server.routes[job.model]
        return await ask(route.url, job.body(route.name), began + seconds - time.monotonic())

    return list(await asyncio.gather(*(client(job) for job in load)))


def summary(trials: Sequence[Trial], seconds: float) -> dict[str, Any]:
    """The figures of the module's text."""
    goodputs = {trial.server: goodput(trial.by_class, seconds) for trial in trials}
    ratio = ratio_to_peer(goodputs)
    made: dict[str, Any] = {
        "goodput_ratio_to_peer": None if ratio is None else round(ratio, 3),
        "goodput": {name: round(value, 1) for name, value in goodputs.items()},
    }
    for trial in trials:
        made[trial.server] = {name: each.shown(seconds) for name, each in trial.by_class.items()}
        made[trial.server] |= {"exit": trial.exit_code, "errors": dict(trial.errors.most_common(5))}
    return made


def table(trials: Sequence[Trial], seconds: float) -> str:
    """A line for each server and class, as Markdown."""
    head = "| server | class | jobs | answered | good | goodput, tokens/s | first text p50, s | p99 | end p50, s | p99 |"
    lines = [head, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for trial in trials:
        for name, each in trial.by_class.items():
            times = (each.first_p50, each.first_p99, each.done_p50, each.done_p99)
            shown = " | ".join(f"{value:.2f}" if math.isfinite(value) else "never" for value in times)
            counts = f"{each.jobs} | {each.answered} | {each.good} | {each.good_tokens / seconds:.0f}"
            lines.append(f"| {trial.server} | {name} | {counts} | {shown} |")
        if trial.errors:
            told = "; ".join(f"{times} × {error}" for error, times in trial.errors.most_common(3))
            lines.append(f"| {trial.server} | *errors* | {told} |" + " |" * 7)
    return "\n".join(lines)


def write_docs(trials: Sequence[Trial], made: Mapping[str, Any], docs: Path) -> None:
    """Put the table and the picture where readers find them."""
    from benchmarks.plots import bar_mixed  # noqa: PLC0415 - a run without a picture needs no matplotlib

    by_server = {trial.server: made[trial.server] for trial in trials}
    bar_mixed(by_server, docs / "mixed.svg", made["seconds"])
    ratio = made["goodput_ratio_to_peer"]
    text = (
        f"![Goodput and p99 by class and server](mixed.svg)\n\n{table(trials, made['seconds'])}\n\n"
        f"tidegate's goodput over the best peer's: **{ratio}**. {made['per_second']:g} requests a second after "
        f"{made['source']}, {made['seconds']:g} s each: {made['load']['one_at_a_time']} of what this machine can do one "
        f"request at a time, {made['load']['batched']} of what it can in batches. Made by `python -m benchmarks.mixed --write-docs` on "
        f"{made['machine']}."
    )
    text += "".join(f"\n\nNot measured: {name}: {why}" for name, why in made["failed"].items())
    replace_part(docs / "performance.md", "mixed", text)


if __name__ == "__main__":
    main()
