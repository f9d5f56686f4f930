"""Metrics filled with samples, as prometheus_client writes them: those of the table, each once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from api.metric_table import API, METRICS, WORKER, Described, Kind
from scheduler.measures import MEASURES, VALUES
from scheduler.tally import Labels, Spread, Tally

_ZEROS_MOST: Final = 8
"""Series of a counter that are told before there is anything to count, so that their first increase is seen."""


class Series:
    """What one scrape tells."""

    def __init__(self) -> None:
        self._made = {name: _empty(each) for name, each in METRICS.items()}

    @property
    def metrics(self) -> Iterable[Metric]:
        """All of them, in the table's order; one that nobody knows anything of has no samples."""
        return self._made.values()

    def say(self, name: str, value: float, *labels: str) -> None:
        """Add a gauge's or a counter's sample."""
        self._made[name].add_metric(labels, value)  # type: ignore[attr-defined]  # all but Metric itself have it

    def say_spread(self, name: str, spread: Spread, *labels: str) -> None:
        """Add a histogram's samples."""
        bounds = [*map(floatToGoString, METRICS[name].bounds), "+Inf"]
        buckets = list(zip(bounds, itertools.accumulate(spread.counts), strict=True))
        self._made[name].add_metric(labels, buckets, spread.total)  # type: ignore[attr-defined]

    def say_tally(self, tally: Tally, worker: str | None = None) -> None:
        """Add what a process counted: a worker's, or this API's own."""
        prefix, first = (API, ()) if worker is None else (WORKER, (worker,))
        for name, family in MEASURES.items():
            if not (family.by_api if worker is None else family.by_workers):
                continue
            if family.bounds:
                for labels, spread in list(tally.spreads.get(name, {}).items()):
                    self.say_spread(prefix + name, spread, *first, *labels)
                continue
            for labels, count in (_zeros(family.labels) | tally.counts.get(name, {})).items():
                self.say(f"{prefix}{name}_total", count, *first, *labels)


def _zeros(labels: tuple[str, ...]) -> dict[Labels, int]:
    if len(labels) == 1 and len(values := VALUES.get(labels[0], ())) <= _ZEROS_MOST:
        return {(value,): 0 for value in sorted(values)}
    return {}


def _empty(each: Described) -> Metric:
    if each.kind is Kind.HISTOGRAM:
        return HistogramMetricFamily(each.name, each.help, labels=each.labels, unit=each.unit)
    if each.kind is Kind.COUNTER:
        return CounterMetricFamily(each.name.removesuffix("_total"), each.help, labels=each.labels)
    return GaugeMetricFamily(each.name, each.help, labels=each.labels, unit=each.unit)
