"""What each route and field does, found by calling it: tidegate beside `mlx_lm.server`, as docs/compatibility.md has it.

Run ``python -m benchmarks.compatibility``; ``--write-docs`` puts the table into the page. Both serve the same tiny model
with random weights, and are started as their users start them; tidegate's queue is bounded to a few jobs and its memory
to a small budget, so that both bounds are met, and its webhooks may go to the questions' own receiver. A server that a question ended is started anew for the next.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import click
import httpx
import psutil

from benchmarks.behaviour_probes import BEHAVIOUR_PROBES, MOST_QUEUED
from benchmarks.chat_probes import CHAT_PROBES
from benchmarks.completion_probes import CHAT
from benchmarks.job_probes import JOB_PROBES
from benchmarks.pages import machine, replace_part
from benchmarks.peers import FOLDER, PEERS, Peer, install, serving
from benchmarks.probing import ANSWER_SECONDS, Probe, Server, put
from benchmarks.random_models import CHAT_TEMPLATE, write_random_llama
from benchmarks.response_probes import RESPONSE_PROBES
from benchmarks.rest_probes import REST_PROBES
from benchmarks.stack import stack
from benchmarks.text_probes import TEXT_PROBES
from benchmarks.webhook_probes import ALLOWED

PAGE: Final = Path(__file__).parents[1] / "docs" / "compatibility.md"
PART: Final = "compatibility"
BUDGET: Final = "256MiB"
_MODEL: Final = "tiny"
_TOOLS: Final = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"


@dataclass(frozen=True, slots=True)
class Row:
    """A probe's results, in the order of the servers."""

    probe: Probe
    results: tuple[str, ...]


PROBES: Final = (
    *CHAT_PROBES,
    *TEXT_PROBES,
    *RESPONSE_PROBES,
    *JOB_PROBES,
    *REST_PROBES,
    *BEHAVIOUR_PROBES,
)

Start = Callable[[], AbstractContextManager[Server]]


def write_model(folder: Path) -> Path:
    """A model whose answers end by their length alone, and whose chat template has a place for tools."""
    write_random_llama(folder, never_stops=True, max_position=1 << 20)
    config = folder / "tokenizer_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps(said | {"chat_template": _TOOLS + CHAT_TEMPLATE}))
    return folder


@contextmanager
def tidegate(model: Path) -> Iterator[Server]:
    """A whole tidegate."""
    with stack(
        {_MODEL: model}, memory_budget=BUDGET, max_queued_jobs=MOST_QUEUED, webhook_allow=ALLOWED
    ) as running:
        processes = [child.pid for child in (running.api, *running.workers)]
        with _asked(running.url, _MODEL, processes) as server:
            yield server


@contextmanager
def peer(which: Peer, folder: Path, model: Path) -> Iterator[Server]:
    """Another server, alone."""
    python = install(which, folder)
    with (
        tempfile.TemporaryDirectory() as scratch,
        serving(which, python, model, Path(scratch)) as running,
        _asked(running.url, running.model_name, [running.process.pid]) as server,
    ):
        yield server


@contextmanager
def _asked(url: str, model: str, processes: Sequence[int]) -> Iterator[Server]:
    with httpx.Client(base_url=url, trust_env=False, timeout=ANSWER_SECONDS) as http:
        yield Server(http, model, lambda: sum(map(_cpu_seconds, processes)))


def _cpu_seconds(pid: int) -> float:
    """What a process and all below it have computed; nothing of one that ended."""
    seconds = 0.0
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for each in (top, *top.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                seconds += times.user + times.system
    return seconds


def results(start: Start, probes: Sequence[Probe]) -> list[str]:
    """Each probe's result; the server is started anew where it does not answer any more."""
    found: list[str] = []
    with ExitStack() as running:
        server = running.enter_context(start())
        for probe in probes:
            result = put(probe, server)
            if not _answers(server):
                result += "" if "nobody" in result or "anybody" in result else "; then answers nobody"
                running.close()
                server = running.enter_context(start())
            click.echo(f"  {probe.route} {probe.name}: {result}")
            found.append(result)
    return found


def _answers(server: Server) -> bool:
    """Whether an ordinary client still gets an answer."""
    body = {"model": server.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    try:
        return server.http.post(CHAT, json=body).is_success
    except httpx.TransportError:
        return False


def table(names: Sequence[str], rows: Sequence[Row]) -> str:
    """The rows as Markdown, a table for each route."""
    parts = []
    for route, of_route in groupby(rows, key=lambda row: row.probe.route):
        title = f"`{route}`" if route.startswith("/") else "Any route"
        lines = [
            f"### {title}",
            "",
            f"| asked | right is | {' | '.join(names)} |",
            "|---" * (2 + len(names)) + "|",
        ]
        lines += [f"| {row.probe.name} | {row.probe.right} | {' | '.join(row.results)} |" for row in of_route]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


@click.command()
@click.option(
    "--peers", "folder", type=click.Path(path_type=Path), default=FOLDER, help="Where peers are installed."
)
@click.option("--only", default="", help="Probes whose route or name has this alone.")
@click.option("--write-docs", is_flag=True, help=f"Write the table into {PAGE.name}.")
def main(folder: Path, only: str, write_docs: bool) -> None:
    """Put every question to both servers and print the table."""
    probes = [probe for probe in PROBES if only in f"{probe.route} {probe.name}"]
    other = PEERS[0]
    with tempfile.TemporaryDirectory() as scratch:
        model = write_model(Path(scratch) / _MODEL)
        starts: dict[str, Start] = {
            "tidegate": lambda: tidegate(model),
            f"{other.command[0]} {other.version}": lambda: peer(other, folder, model),
        }
        columns = []
        for name, start in starts.items():
            click.echo(name)
            columns.append(results(start, probes))
    rows = [Row(probe, said) for probe, said in zip(probes, zip(*columns, strict=True), strict=True)]
    made = f"{table(list(starts), rows)}\n\nMade on {machine()}."
    click.echo(made)
    if write_docs:
        replace_part(PAGE, PART, made)


if __name__ == "__main__":
    main()
