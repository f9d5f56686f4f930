"""Every metric of ``/metrics``: its name, its kind, its labels, and what it is. The one table of it.

Names say whose a figure is. ``tidegate_worker_`` is what a worker says of itself: each API tells the same of all, so take one
API's, as ``max by (worker)`` does. ``tidegate_queue_``, ``tidegate_webhooks_`` and ``tidegate_workers`` stand on the queue's
server, and are the same at each API too. ``tidegate_api_`` is one API process's own, to be summed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from scheduler.measures import MEASURES, Family

WORKER: Final = "tidegate_worker_"
API: Final = "tidegate_api_"

_UNITS: Final = ("bytes", "seconds", "ratio")


class Kind(enum.StrEnum):
    """As Prometheus has them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Described:
    """A metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """What stands at the end of its name; '' for counts."""
        ending = self.name.removesuffix("_total").rpartition("_")[2]
        return ending if ending in _UNITS else ""

    @property
    def series(self) -> tuple[str, ...]:
        """The names that its samples have."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


def _gauge(name: str, words: str, *labels: str) -> Described:
    return Described(name, Kind.GAUGE, words, labels)


def _of_worker(name: str, words: str) -> Described:
    return Described(WORKER + name, Kind.GAUGE, words, ("worker",))


def _counted(prefix: str, name: str, family: Family) -> Described:
    labels = ("worker", *family.labels) if prefix == WORKER else family.labels
    if family.bounds:
        return Described(prefix + name, Kind.HISTOGRAM, family.help, labels, family.bounds)
    return Described(f"{prefix}{name}_total", Kind.COUNTER, family.help, labels)


_TABLE: Final = (
    _gauge("tidegate_build_info", "This API's release; always 1.", "version"),
    _gauge(
        "tidegate_api_store_up",
        "Whether the queue's server answered this scrape: 1, or 0, and then there is nothing of queue and workers.",
    ),
    _gauge("tidegate_api_streams_open", "Streams that this process is sending."),
    _gauge("tidegate_workers", "Workers that live, those that cannot run anything now among them."),
    _gauge("tidegate_queue_jobs", "Jobs that wait.", "priority"),
    _gauge(
        "tidegate_queue_tokens", "Their tokens of work, of prompts and answers, as estimated.", "priority"
    ),
    _gauge(
        "tidegate_queue_oldest_age_seconds",
        "Since the job at the head of its class's queue was submitted; 0 where none waits.",
        "priority",
    ),
    _gauge("tidegate_queue_places_held", "Places held for clients who were refused and told when to come."),
    _gauge("tidegate_webhooks_pending", "Webhooks that are to be sent, or sent again."),
    Described(
        "tidegate_webhooks_ended_total",
        Kind.COUNTER,
        "Webhooks that were delivered, given up (failed), or gone with their job (dropped).",
        ("outcome",),
    ),
    Described(
        "tidegate_worker_info",
        Kind.GAUGE,
        "A worker's host and release; always 1.",
        ("worker", "host", "version"),
    ),
    _of_worker("report_age_seconds", "Since a worker last said how it is, by both clocks."),
    _of_worker(
        "engine_ready", "Whether its engine takes jobs: 1; 0 while it starts, loads, measures or cools down."
    ),
    _of_worker(
        "cooling_down", "Whether so many of its engines died that it starts none for a while: 1 or 0."
    ),
    _of_worker("budget_bytes", "What a worker may use: weights + reserved + cache + headroom."),
    _of_worker("working_bytes", "Of the budget, what jobs may hold now: less after memory ran out."),
    _of_worker("weights_bytes", "Weights of the models in its memory."),
    _of_worker("reserved_bytes", "Reserved for the jobs that run."),
    _of_worker(
        "cache_bytes",
        "Freed buffers and beginnings of prompts that are kept, and given up where memory is needed.",
    ),
    _of_worker("prefix_cache_bytes", "Of the cache, kept for jobs that begin alike."),
    _of_worker("headroom_bytes", "What is left for jobs to come."),
    _of_worker("used_bytes", "What its engine was measured to use, of whatever it is reserved for."),
    _of_worker("jobs_running", "Jobs in hand."),
    _of_worker(
        "tokens_per_second",
        "Tokens of answers made a second, over the last half minute of work; it stays when that ends.",
    ),
    Described(
        WORKER + "engine_restarts_total",
        Kind.COUNTER,
        "Engines that died, each of which is replaced, after a pause where many did.",
        ("worker",),
    ),
    Described(
        WORKER + "out_of_memory_total",
        Kind.COUNTER,
        "Times that memory ran out and an attempt failed of it, each counted once however many jobs it met.",
        ("worker",),
    ),
    *(_counted(WORKER, name, family) for name, family in MEASURES.items() if family.by_workers),
    *(_counted(API, name, family) for name, family in MEASURES.items() if family.by_api),
)

METRICS: Final[dict[str, Described]] = {each.name: each for each in _TABLE}
"""By name, in the order in which they are told."""
