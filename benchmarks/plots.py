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
