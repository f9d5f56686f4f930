"""`/metrics`: what Prometheus reads of the queue, of every live worker, and of this process.

Workers count in their own processes, and carry what they counted in the reports that they make anyway; a scrape reads those, and
the queue's depth in one round trip. Where the queue's server does not answer, what this process counted is told all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from flask import Flask, Response, current_app, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from api.caller import caller
from api.metering import METERING, Metering
from api.metric_series import Series
from api.schemas import NoQuery
from api.services import EXTENSION, Services
from api.spec import ERRORS
from scheduler.depth import Depth
from scheduler.fleet import WorkerReport
from scheduler.job import PRIORITIES
from scheduler.measures import StorePart
from scheduler.swap import STORE_ERRORS
from scheduler.tally import Tally
from scheduler.version import version

REGISTRY: Final = "metrics"

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text"

WORKERS_MOST: Final = 64
"""That are told of, the first by name; ``tidegate_workers`` counts all."""

_NAME_MOST: Final = 128  # characters of a worker's name, host or release

_BYTES: Final = (
    *("budget_bytes", "weights_bytes", "reserved_bytes", "cache_bytes", "prefix_cache_bytes"),
    *("headroom_bytes", "used_bytes"),
)

routes = APIBlueprint("metrics", __name__, abp_tags=[Tag(name="capacity")], abp_responses=ERRORS)

_SAID: Final = {
    "description": "OK",
    "content": {kind: {"schema": {"type": "string"}} for kind in ("text/plain", OPENMETRICS)},
}


@routes.get("/metrics", responses={200: _SAID})
def get_metrics(query: NoQuery) -> Response:  # noqa: ARG001 (that there is none)
    """Measure the queue, every live worker and this process, for Prometheus.

    In Prometheus' text format, or in OpenMetrics' where `Accept` asks for it. Models are those that are listed, and that
    the key may use. While the queue's server is away `tidegate_api_store_up` is 0, and only this process's own figures
    are told.
    """
    registry: CollectorRegistry = current_app.extensions[REGISTRY]
    if _wants_openmetrics():
        said = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
        return Response(said, content_type=CONTENT_TYPE_LATEST)
    return Response(generate_latest(registry), content_type=TEXT)


def install(app: Flask) -> None:
    """Give an application its registry."""
    registry = app.extensions[REGISTRY] = CollectorRegistry()
    registry.register(_Scrape(app.extensions[EXTENSION], app.extensions[METERING]))


class _Scrape(Collector):
    """Reads what is so whenever it is asked, within a request, whose caller may see some models."""

    def __init__(self, here: Services, metering: Metering) -> None:
        self._here, self._metering = here, metering

    def describe(self) -> Iterable[Metric]:
        """Every metric, without samples: nothing is read for it."""
        return Series().metrics

    def collect(self) -> Iterator[Metric]:
        """Every metric. Between them others have their turn: streams do not stand still for many workers' sake."""
        series, tally = Series(), self._here.lifecycle.tally
        series.say("tidegate_build_info", 1, version())
        answered = False
        with suppress(*STORE_ERRORS):
            self._say_store(series)
            answered = True
        if not answered:
            series = Series()
            series.say("tidegate_build_info", 1, version())
            tally.count("store_failures", StorePart.METRICS.value)
        series.say("tidegate_api_store_up", answered)
        series.say("tidegate_api_streams_open", self._metering.streams)
        series.say_tally(tally)
        for metric in series.metrics:
            yield metric
            time.sleep(0)

    def _say_store(self, series: Series) -> None:
        """What stands on the queue's server.

        Raises:
            StoreUnavailable, RedisError: it does not answer, or holds what others wrote.
        """
        lifecycle = self._here.lifecycle
        _say_depth(series, lifecycle.queue.depth())
        workers = lifecycle.workers()
        series.say("tidegate_workers", len(workers))
        models = {name for name in lifecycle.settings.model_sources if caller().may_use(name)}
        told = {
            report.name[:_NAME_MOST]: report for report in reversed(workers)
        }  # a name stands once, whoever says it
        for name in sorted(told)[:WORKERS_MOST]:
            _say_worker(series, name, told[name])
            series.say_tally(Tally.read(told[name].measures, models), name)
            time.sleep(0)


def _say_depth(series: Series, depth: Depth) -> None:
    now = time.time()
    for name in PRIORITIES:
        if (each := depth.classes.get(name)) is not None:
            age = 0.0 if each.head_made_at is None else max(0.0, now - each.head_made_at)
            series.say("tidegate_queue_jobs", each.jobs, name)
            series.say("tidegate_queue_tokens", each.tokens, name)
            series.say("tidegate_queue_oldest_age_seconds", age, name)
    if depth.places is not None:
        series.say("tidegate_queue_places_held", depth.places)
    if depth.webhooks is not None:
        series.say("tidegate_webhooks_pending", depth.webhooks)
    for outcome, count in depth.webhooks_ended.items():
        series.say("tidegate_webhooks_ended_total", count, outcome)


def _say_worker(series: Series, name: str, report: WorkerReport) -> None:
    working = report.budget_bytes if report.working_bytes is None else report.working_bytes
    now = time.time()
    figures: dict[str, float] = {each: getattr(report, each) for each in _BYTES} | {
        "report_age_seconds": max(0.0, now - report.updated_at),
        "engine_ready": report.engine == "ready",
        "cooling_down": report.cools_until > now,
        "working_bytes": min(working, report.budget_bytes),
        "jobs_running": len(report.running),
        "tokens_per_second": max(0.0, report.tokens_per_second),
        "engine_restarts_total": max(0, report.counters.get("engine_deaths", 0)),
        "out_of_memory_total": max(0, report.counters.get("out_of_memory", 0)),
    }
    series.say("tidegate_worker_info", 1, name, report.host[:_NAME_MOST], report.version[:_NAME_MOST])
    for figure, value in figures.items():
        series.say(f"tidegate_worker_{figure}", value, name)


def _wants_openmetrics() -> bool:
    """Whether `Accept` names OpenMetrics, and likes it no less than plain text."""
    liked: dict[str, float] = {}
    for kind, quality in request.accept_mimetypes:
        name = kind.partition(";")[0].strip().lower()
        liked[name] = max(quality, liked.get(name, 0.0))
    return liked.get(OPENMETRICS, 0.0) > 0 and liked[OPENMETRICS] >= liked.get("text/plain", 0.0)
