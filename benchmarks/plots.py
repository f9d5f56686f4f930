"""The pictures in the docs, drawn from what benchmarks measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

MIB = 1 << 20


def scatter_footprints(cases: Mapping[str, Sequence[Any]], path: Path, device: str) -> None:
    """Foreseen against measured peaks, a mark for each batch.

    Args:
        cases: by model, with ``measured_bytes`` and ``foreseen_bytes``.
        path: an SVG file.
        device: for the title.
    """
    mpl.rcParams["svg.hashsalt"] = "tidegate"  # the same data, the same file
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.subplots()
    for (name, mine), marker in zip(cases.items(), "osD^vP*X" * 9, strict=False):
        measured = [case.measured_bytes / MIB for case in mine]
        foreseen = [case.foreseen_bytes / MIB for case in mine]
        axes.plot(measured, foreseen, marker, label=name, markersize=4, alpha=0.75)
    sizes = [case.measured_bytes / MIB for mine in cases.values() for case in mine]
    ends = [min(sizes) / 1.3, max(sizes) * 1.3]
    axes.plot(ends, ends, color="black", linewidth=0.8, label="as measured")
    axes.plot(ends, [1.25 * end for end in ends], color="grey", linewidth=0.8, linestyle=":", label="+ 25 %")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel("measured peak beside the weights, MiB")
    axes.set_ylabel("foreseen peak, MiB")
    axes.set_title(f"{len(sizes)} batches of {len(cases)} architectures, {device}", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def plot_goodput(figures: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Goodput against load: a panel for each machine, a line for each policy.

    Args:
        figures: rows with ``machine``, ``load``, ``policy`` and ``goodput``.
        path: an SVG file.
    """
    mpl.rcParams["svg.hashsalt"] = "tidegate"
    machines = list(dict.fromkeys(row["machine"] for row in figures))
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    panels = figure.subplots(2, -(-len(machines) // 2), squeeze=False).flat
    for axes, machine in zip(panels, machines, strict=False):
        mine = [row for row in figures if row["machine"] == machine]
        for policy, marker in zip(dict.fromkeys(row["policy"] for row in mine), "os^Dv", strict=False):
            points = [(row["load"], row["goodput"]) for row in mine if row["policy"] == policy]
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=policy)
        axes.set_title(machine, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("load, of what the machine can do", fontsize=8)
        axes.set_ylabel("goodput, tokens/s", fontsize=8)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False
    )
    figure.savefig(path, format="svg", metadata={"Date": None})


def plot_lags(lags: Sequence[float], path: Path, title: str) -> None:
    """The share of deltas that came within a time.

    Args:
        lags: seconds from a delta's writing to its reading.
        path: an SVG file.
        title: what was measured, and where.
    """
    mpl.rcParams["svg.hashsalt"] = "tidegate"
    ranked = sorted(1000 * lag for lag in lags)
    points = [ranked[min(len(ranked) - 1, at * len(ranked) // 1000)] for at in range(1001)]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(points, [at / 10 for at in range(1001)])
    axes.axvline(100, color="grey", linewidth=0.8, linestyle=":", label="the goal for 99 %")
    axes.axhline(99, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", ylim=(0, 101))
    axes.set_xlabel("from the worker's write to the client's reading, ms")
    axes.set_ylabel("deltas, %")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
