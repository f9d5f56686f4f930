"""Whether the process is up, whether it can take jobs, and where everything is."""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from api.answers import answer
from api.page import shell, wants_page
from api.schemas import Health, Index, Readiness
from api.services import services
from scheduler.fleet import live_workers
from scheduler.version import version

routes = APIBlueprint("health", __name__, abp_tags=[Tag(name="server")])


@routes.get("/healthz", responses={200: Health})
def healthy() -> Response:
    """Ask whether the process is up."""
    return answer({"status": "ok"})


@routes.get("/readyz", responses={200: Readiness})
def ready() -> Response:
    """Ask whether the queue's server answers, so that jobs are taken, and how many workers live to run them.

    Those whose engines died too often run nothing for a while: they count as cooling.
    """
    workers = live_workers(services().lifecycle.connection)
    cooling = sum(each.cools_until > 0 for each in workers)
    return answer({"status": "ready", "live_workers": len(workers), "cooling_workers": cooling})


@routes.get("/", responses={200: Index})
def index() -> Response:
    """See where everything is.

    A browser is shown the page instead: it prefers HTML.
    """
    said = shell() if wants_page() else answer(_index())
    said.vary.add("Accept")
    return said


def _index() -> dict[str, str]:
    return {
        "name": "tidegate",
        "version": version(),
        "jobs": "/v1/jobs",
        "capacity": "/v1/capacity",
        "tide": "/v1/tide",
        "chat": "/v1/chat/completions",
        "models": "/v1/models",
        "files": "/v1/files",
        "batches": "/v1/batches",
        "metrics": "/metrics",
        "ready": "/readyz",
        "healthy": "/healthz",
        "openapi": "/openapi.json",
        "docs": "/docs",
    }
