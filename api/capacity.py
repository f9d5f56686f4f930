"""`/v1/capacity`: who could run what, now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.caller import caller
from api.capacity_schemas import Capacity
from api.schemas import NoQuery
from api.services import services
from api.spec import ERRORS
from scheduler.fleet import PREPARING, WorkerReport
from scheduler.webhooks import Webhooks

routes = APIBlueprint("capacity", __name__, abp_tags=[Tag(name="capacity")], abp_responses=ERRORS)

_SAID: Final = (
    *("name", "host", "pid", "budget_bytes", "budget_source", "limits_bytes", "weights_bytes"),
    *("reserved_bytes", "used_bytes", "cache_bytes", "prefix_cache_bytes", "headroom_bytes"),
    *(
        "tokens_per_second",
        "work_tokens_per_second",
        "counters",
        "version",
        "envelope_versions",
        "updated_at",
    ),
)


@routes.get("/v1/capacity", responses={200: Capacity})
def get_capacity(query: NoQuery) -> Response:  # noqa: ARG001 (that there is none)
    """Tell what every live worker may use, holds and serves, and how much waits: jobs, and webhooks.

    A key is told of the models that it may use.
    """
    lifecycle = services().lifecycle
    waiting = lifecycle.queue.waiting()
    classes = lifecycle.queue.waiting_by_class()
    webhooks = Webhooks(lifecycle.connection, lifecycle.queue.swap).counts()
    return answer(told(lifecycle.workers(), waiting, classes, webhooks, caller().may_use))


def told(
    workers: Iterable[WorkerReport],
    waiting: tuple[int, int],
    classes: Mapping[str, tuple[int, int]],
    webhooks: Mapping[str, int],
    may_use: Callable[[str], bool],
) -> dict[str, Any]:
    """The answer.

    Args:
        workers: those that are alive.
        waiting: jobs, and their tokens of work.
        classes: the same of each class.
        webhooks: how many there are, by how they stand.
        may_use: whether the caller may use a model.
    """
    by_priority = {name: {"jobs": each[0], "tokens": each[1]} for name, each in classes.items()}
    return {
        "object": "capacity",
        "workers": [_worker(report, may_use) for report in workers],
        "queue": {"jobs": waiting[0], "tokens": waiting[1], "by_priority": by_priority},
        "webhooks": webhooks,
    }


def _worker(report: WorkerReport, may_use: Callable[[str], bool]) -> dict[str, Any]:
    working = report.budget_bytes if report.working_bytes is None else report.working_bytes
    return {name: getattr(report, name) for name in _SAID} | {
        "engine": _engine(report, may_use),
        "working_bytes": min(working, report.budget_bytes),
        "cools_until": report.cools_until or None,
        "footprint_ratios": report.footprint_ratios,
        "running": len(report.running),
        "models": [
            {"id": model, "card": report.cards.get(model)} for model in report.served if may_use(model)
        ],
        "queues": list(report.queues),
    }


def _engine(report: WorkerReport, may_use: Callable[[str], bool]) -> str:
    """What its engine does; which model it gets ready only to those who may use that."""
    doing, _, model = report.engine.partition(" ")
    return f"{doing} another model" if doing in PREPARING and not may_use(model) else report.engine
