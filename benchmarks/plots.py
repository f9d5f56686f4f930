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


def bar_mixed(by_server: Mapping[str, Mapping[str, Any]], path: Path, seconds: float) -> None:
    """A mixed workload: goodput by server, its classes on top of each other, and p99 of the first text by class.

    Args:
        by_server: by class, ``goodput`` in tokens a second and ``first_p99_s``, None where it never came.
        path: an SVG file.
        seconds: of the run, which a first text that never came is drawn as long as.
    """
    mpl.rcParams["svg.hashsalt"] = "tidegate"
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    good, first = figure.subplots(1, 2)
    places, base = range(len(by_server)), [0.0] * len(by_server)
    for shift, (name, colour) in enumerate((("interactive", "tab:orange"), ("batch", "tab:blue"))):
        rows = [each[name] for each in by_server.values()]
        heights = [row["goodput"] for row in rows]
        good.bar(places, heights, bottom=base, color=colour, label=name)
        base = [below + height for below, height in zip(base, heights, strict=True)]
        beside = [place + 0.4 * shift - 0.2 for place in places]
        late = [seconds if row["first_p99_s"] is None else row["first_p99_s"] for row in rows]
        first.bar(beside, late, width=0.4, color=colour)
        for place, row in zip(beside, rows, strict=True):
            if row["first_p99_s"] is None:
                first.annotate("never", (place, seconds), ha="center", va="bottom", fontsize=7)
    first.set_yscale("log")
    first.set_ylabel("first text, p99, s", fontsize=8)
    good.set_ylabel("goodput, tokens/s", fontsize=8)
    for axes in (good, first):
        axes.set_xticks(places, list(by_server), fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
    figure.legend(
        *good.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    figure.savefig(path, format="svg", metadata={"Date": None})


def plot_throughput(points: Mapping[tuple[str, int, str], tuple[float, float]], path: Path) -> None:
    """Tokens a second and the median time to the first text against concurrency: a row each, a column a model.

    Args:
        points: by model, concurrency and who answered: tokens a second, and seconds.
        path: an SVG file.
    """
    mpl.rcParams["svg.hashsalt"] = "tidegate"
    models = list(dict.fromkeys(model for model, *_ in points))
    names = list(dict.fromkeys(name for *_, name in points))
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    panels = figure.subplots(2, len(models), squeeze=False)
    for kind, label in enumerate(("tokens/s", "first text, ms")):
        for axes, model in zip(panels[kind], models, strict=True):
            for name, marker in zip(names, "xos^Dv" * 9, strict=False):
                mine = [(c, each) for (m, c, n), each in points.items() if (m, n) == (model, name)]
                heights = [each[kind] * (1000 if kind else 1) for _, each in mine]
                axes.plot([at for at, _ in mine], heights, marker=marker, markersize=4, label=name)
            axes.set(xscale="log", yscale="log", ylabel=label)
            axes.set_xticks(sorted({c for m, c, _ in points if m == model}))
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.minorticks_off()
            axes.set_title(f"{model} model" if not kind else "", fontsize=10)
            axes.set_xlabel("requests at once" if kind else "", fontsize=8)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(names),
        fontsize=8,
        frameon=False,
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


def plot_soak(curves: Mapping[str, Sequence[tuple[int, float, float]]], path: Path, title: str) -> None:
    """Memory over a soak: a panel for each process, a line for each life of one.

    Args:
        curves: by process: ids, seconds and bytes, in the order of time.
        path: an SVG file.
        title: what was done meanwhile.
    """
    mpl.rcParams["svg.hashsalt"] = "tidegate"
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    panels = figure.subplots(2, -(-len(curves) // 2), squeeze=False, sharex=True).flat
    for axes, (name, curve) in zip(panels, curves.items(), strict=False):
        for pid in dict.fromkeys(each for each, *_ in curve):
            life = [(seconds / 60, held / MIB) for each, seconds, held in curve if each == pid]
            axes.plot(*zip(*life, strict=True), linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize=10)
        axes.set_ylabel("MiB", fontsize=8)
        axes.set_xlabel("minutes", fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, format="svg", metadata={"Date": None})
