"""Requests to simulate: a trace of a real service, or one drawn after its moments.

The trace is the conversation service of the Azure LLM inference traces of 2023 (``TIMESTAMP``, ``ContextTokens``,
``GeneratedTokens`` of 19,366 requests), published in the repository Azure/AzurePublicDataset under CC-BY 4.0; Patel
et al., "Splitwise: Efficient generative LLM inference using phase splitting", ISCA 2024.

It does not say what clients allowed. Here each draws its ``max_tokens`` from :data:`MAX_TOKENS`, and its class.
"""

from __future__ import annotations

import csv
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from benchmarks.simulation import Request
from scheduler.job import PRIORITIES

TRACE: Final = "azure_llm_conv_2023.csv"
FOLDERS: Final = (Path("traces"), Path("../shared/traces"))

MAX_TOKENS: Final = (1_024, 8_192, 32_768)
"""A frugal client's, one that allows what a hosted model would write at most, and what the cards of Qwen3's models
recommend for most queries; each a third of the clients."""

SHARES: Final = (0.25, 0.5, 0.25)
"""Of the classes, most urgent first."""

_DRAWN: Final = 19_366


@dataclass(frozen=True, slots=True)
class Arrival:
    """A line of a trace."""

    seconds: float
    prompt_tokens: int
    answer_tokens: int


def find_trace() -> Path | None:
    """The published trace, where it lies at hand."""
    return next((folder / TRACE for folder in FOLDERS if (folder / TRACE).is_file()), None)


def read_trace(path: Path) -> list[Arrival]:
    """A file of the trace's columns.

    Raises:
        ValueError: it has others.
    """
    with path.open(newline="") as file:
        try:
            rows = [
                (
                    _moment(row["TIMESTAMP"]),
                    max(1, int(row["ContextTokens"])),
                    max(1, int(row["GeneratedTokens"])),
                )
                for row in csv.DictReader(file)
            ]
        except KeyError as error:
            raise ValueError(f"{path} has no column {error}") from None
    first = min(moment for moment, *_ in rows)
    return [Arrival((moment - first).total_seconds(), *tokens) for moment, *tokens in sorted(rows)]


def _moment(text: str) -> datetime:
    """A time as the traces write it: of seven digits behind the second six are read, and all are of one zone."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).replace(tzinfo=None)


def draw_trace(seed: int = 1) -> list[Arrival]:
    """A workload with the trace's published means and medians: lengths lognormal, arrivals at random."""
    dice, moment = random.Random(seed), 0.0
    arrivals = []
    for _ in range(_DRAWN):
        moment += dice.expovariate(1.0)
        arrivals.append(Arrival(moment, _lognormal(dice, 1020, 1155), _lognormal(dice, 129, 211)))
    return arrivals


def _lognormal(dice: random.Random, median: float, mean: float) -> int:
    return max(1, round(dice.lognormvariate(math.log(median), math.sqrt(2 * math.log(mean / median)))))


def requests(trace: Sequence[Arrival], every: int, per_second: float, seed: int = 1) -> list[Request]:
    """Every so many-th request of a trace, the whole of it compressed or stretched to an arrival rate."""
    dice = random.Random(seed)
    thinned = trace[::every]
    span = max(1e-9, thinned[-1].seconds - thinned[0].seconds)
    scale = len(thinned) / per_second / span
    return [
        Request(
            name=f"job_{at}",
            arrived_at=(each.seconds - thinned[0].seconds) * scale,
            prompt_tokens=each.prompt_tokens,
            answer_tokens=each.answer_tokens,
            max_tokens=max(each.answer_tokens, dice.choice(MAX_TOKENS)),
            priority=dice.choices(PRIORITIES, SHARES)[0],
        )
        for at, each in enumerate(thinned)
    ]
