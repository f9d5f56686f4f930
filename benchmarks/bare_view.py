"""The least that a submission over HTTP can be: a Flask view that reads JSON and enqueues one RQ job.

Served as the API is: ``python -m gunicorn --config python:api.gunicorn_conf "benchmarks.bare_view:create_app()"``.
"""

from __future__ import annotations

import os
from typing import Any, Final

import redis
from flask import Flask, request
from rq import Queue
from rq.serializers import JSONSerializer

URL_VARIABLE: Final = "RQ_REDIS_URL"


def create_app() -> Flask:
    """The view, on the server that :data:`URL_VARIABLE` names."""
    app = Flask(__name__)
    connection = redis.Redis.from_url(os.environ[URL_VARIABLE])
    queue = Queue("bare", connection=connection, serializer=JSONSerializer)

    @app.post("/jobs")
    def submit() -> tuple[dict[str, Any], int]:
        job = queue.enqueue("bare.generate", kwargs={"request": request.get_json()})
        return {"id": job.id, "status": "queued"}, 202

    return app
