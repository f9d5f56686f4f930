"""Whether the process is up, whether it can take jobs, and where everything is."""

from __future__ import annotations

from flask import Blueprint, Response

from api.answers import answer
from api.services import services
from scheduler.fleet import live_workers

routes = Blueprint("health", __name__)


@routes.get("/healthz")
def healthy() -> Response:
    """The process is up."""
    return answer({"status": "ok"})


@routes.get("/readyz")
def ready() -> Response:
    """The queue's server answers, so jobs are taken; how many workers live to run them."""
    workers = live_workers(services().lifecycle.connection)
    return answer({"status": "ready", "live_workers": len(workers)})


@routes.get("/")
def index() -> Response:
    """Where everything is."""
    return answer(
        {
            "name": "tidegate",
            "jobs": "/v1/jobs",
            "capacity": "/v1/capacity",
            "chat": "/v1/chat/completions",
            "models": "/v1/models",
            "ready": "/readyz",
            "healthy": "/healthz",
            "openapi": "/openapi.json",
        }
    )
