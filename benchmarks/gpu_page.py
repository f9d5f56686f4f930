"""What was measured on a GPU, as people read it: the machine that has one keeps the figures, this one has the docs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.pages import replace_part

_SHOWN: Final = ("tokens_per_second", "ttft_p50_ms", "ttft_p99_ms", "gap_p50_ms", "gap_p99_ms")


def table(made: Mapping[str, Any]) -> str:
    """A line for each point, as Markdown, and one for each thing that was not measured.

    Args:
        made: what :mod:`benchmarks.gpu_throughput` prints last.
    """
    lines = ["| model | at once | who | tokens/s | first text p50, ms | p99 | gap p50, ms | p99 |"]
    lines.append("|---|---:|---|---:|---:|---:|---:|---:|")
    for (name, concurrency, who), point in _points(made):
        values = " | ".join("–" if point[key] is None else f"{point[key]:,.1f}" for key in _SHOWN)
        lines.append(f"| {name} | {concurrency} | {who} | {values} |")
    missing = [f"Not measured: {what}: {why}" for what, why in made["failed"].items()]
    return "\n".join(lines) + "".join(f"\n\n{line}" for line in missing)


def write_docs(result: Path, docs: Path) -> None:
    """The figures, the table and a picture, into the page about speed.

    Args:
        result: a file with the last line, or the one that is kept in ``$OUT``.
        docs: the folder of the page.
    """
    from benchmarks.plots import plot_throughput  # noqa: PLC0415 - the GPU's machine needs no matplotlib

    made = json.loads(result.read_text())
    drawn = {
        where: (point["tokens_per_second"], point["ttft_p50_ms"] / 1000) for where, point in _points(made)
    }
    plot_throughput(drawn, docs / "gpu-throughput.svg")
    told = ", ".join(f"`{name}` {value}" for name, value in made.items() if name.startswith("gpu_"))
    picture = "![Tokens a second and first text on a GPU](gpu-throughput.svg)"
    text = f"{picture}\n\n{told}.\n\n{table(made)}\n\nMade on {made['machine']}."
    replace_part(docs / "performance.md", "gpu", text)


def _points(made: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int, str], dict[str, Any]]]:
    for name, by_concurrency in made["points"].items():
        for concurrency, by_contender in by_concurrency.items():
            for who, point in by_contender.items():
                yield (name, int(concurrency), who), point
