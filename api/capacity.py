"""`/v1/capacity`: who could run what, now."""

from __future__ import annotations

from typing import Any, Final

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.schemas import Capacity, NoQuery
from api.services import services
from api.spec import ERRORS
from scheduler.fleet import WorkerReport

routes = APIBlueprint("capacity", __name__, abp_tags=[Tag(name="capacity")], abp_responses=ERRORS)

_SAID: Final = (
    *("name", "host", "pid", "engine", "budget_bytes", "budget_source", "limits_bytes", "weights_bytes"),
    *("reserved_bytes", "used_bytes", "cache_bytes", "prefix_cache_bytes", "headroom_bytes"),
    *("tokens_per_second", "work_tokens_per_second", "counters", "footprint_ratios", "updated_at"),
)


@routes.get("/v1/capacity", responses={200: Capacity})
def get_capacity(query: NoQuery) -> Response:  # noqa: ARG001 (that there is none)
    """Tell what every live worker may use, holds and serves, and how much waits."""
    lifecycle = services().lifecycle
    jobs, tokens = lifecycle.queue.waiting()
    workers = [_worker(report) for report in lifecycle.workers()]
    return answer({"object": "capacity", "workers": workers, "queue": {"jobs": jobs, "tokens": tokens}})


def _worker(report: WorkerReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in _SAID} | {
        "running": len(report.running),
        "models": [{"id": model, "card": report.cards.get(model)} for model in report.served],
        "queues": list(report.queues),
    }
