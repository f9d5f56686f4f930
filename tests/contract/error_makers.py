"""How a client meets each error: one small scene for each code, played to the real API; the body that it answered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any, Final, cast

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import Application, create_app
from api.services import EXTENSION
from scheduler.blame import Failure, Fault, judge_failure
from scheduler.errors import ClientError
from scheduler.lifecycle import Lifecycle
from scheduler.settings import Settings
from tests.conftest import MODEL
from tests.keys import bearer, make_key
from tests.plans import WORST_CASE
from tests.pretend_worker import PretendWorker
from workers.desk import Desk
from workers.reporting import Reporting

BODY: Final = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 40}
GIB: Final = 1 << 30


class Scene:
    """An API on the test's server, and a worker that does what it is told."""

    def __init__(self, settings: Settings, connection: Redis, patch: pytest.MonkeyPatch) -> None:
        self.settings, self.connection, self.patch = settings, connection, patch
        self.worker = PretendWorker(connection)

    def client(self, **settings: Any) -> FlaskClient:
        """An API with some settings of its own."""
        return create_app(self.settings.model_copy(update=settings), self.connection).test_client()

    def ended(self, meet: Callable[[Desk, Any], None], **fields: Any) -> TestResponse:
        """The result of a job that a worker claimed, and which then met with something."""
        self.worker.report(budget_bytes=18 * GIB)
        client = self.client()
        job = client.post("/v1/jobs", json=BODY | fields).get_json()["id"]
        lifecycle = Lifecycle(self.connection, self.settings)
        reporting = Reporting(lifecycle, self.worker.name, (), lambda: 0.0)
        clock = self.worker.holding._clock
        desk = Desk(
            lifecycle, self.worker.holding, reporting, lambda _: None, WORST_CASE, lambda: clock() + 61.5
        )
        meet(desk, desk.take(self.worker.claim(job)))
        return client.get(f"/v1/jobs/{job}/result")

    def failed(self, failure: Failure) -> TestResponse:
        """The result of a job that failed so often that it ends."""

        def meet(desk: Desk, held: Any) -> None:
            meta = replace(held.rec.meta, failures=1, victim_of=9, estimated_bytes=17 * GIB)
            error = judge_failure(meta, failure, 2, 12.0)
            assert isinstance(error, ClientError)
            desk.fail(held, error)

        return self.ended(meet)


def _twice(scene: Scene) -> TestResponse:
    client, key = scene.client(), {"Idempotency-Key": "order-4711"}
    client.post("/v1/jobs", json=BODY, headers=key)
    return client.post("/v1/jobs", json=BODY | {"max_tokens": 41}, headers=key)


def _cancelled(scene: Scene) -> TestResponse:
    client = scene.client()
    job = client.post("/v1/jobs", json=BODY).get_json()["id"]
    client.post(f"/v1/jobs/{job}/cancel")
    return client.get(f"/v1/jobs/{job}/result")


def _second(scene: Scene, headers: dict[str, str] | None = None, **settings: Any) -> TestResponse:
    client = scene.client(**settings)
    assert client.post("/v1/jobs", json=BODY, headers=headers).status_code == 202
    return client.post("/v1/jobs", json=BODY, headers=headers)


def _keyed(scene: Scene, **limits: Any) -> dict[str, str]:
    return bearer(make_key(scene.connection, **limits)[0])


def _too_large(scene: Scene) -> TestResponse:
    scene.worker.report(budget_bytes=64 << 20)
    return scene.client().post("/v1/jobs", json=BODY | {"max_tokens": 100_000})


def _bug(scene: Scene) -> TestResponse:
    def broken(*_: object) -> None:
        raise RuntimeError

    scene.patch.setattr(Lifecycle, "get", broken)
    return scene.client().get("/v1/jobs/job_00000000000000000000000000")


def _overdue(scene: Scene) -> TestResponse:
    client = scene.client()
    job = client.post("/v1/jobs", json=BODY | {"queue_timeout": 30}).get_json()["id"]
    lifecycle = cast("Application", client.application).extensions[EXTENSION].lifecycle
    now = lifecycle.get(job).created_at
    lifecycle._clock = lambda: now + 31
    return client.get(f"/v1/jobs/{job}/result")


def _read_only(scene: Scene) -> TestResponse:
    scene.connection.config_set("min-replicas-to-write", 1)
    try:
        return scene.client().post("/v1/jobs", json=BODY)
    finally:
        scene.connection.config_set("min-replicas-to-write", 0)


def _upload(scene: Scene) -> TestResponse:
    lines = b"".join(b'{"custom_id": "%d"}\n' % at for at in range(400))
    sent = {"purpose": "batch", "file": (BytesIO(lines), "sums.jsonl")}
    return scene.client(max_files_bytes=1000).post("/v1/files", data=sent)


def _no_room(scene: Scene) -> TestResponse:
    scene.worker.report(budget_bytes=GIB, headroom_bytes=1 << 19)
    return scene.client().post("/v1/jobs", json=BODY | {"max_tokens": 4000, "on_insufficient_memory": "fail"})


MAKERS: Final[dict[str, Callable[[Scene], TestResponse]]] = {
    "invalid_request": lambda scene: scene.client().post("/v1/jobs", json=BODY | {"temperature": -1}),
    "unauthorized": lambda scene: (_keyed(scene), scene.client().get("/v1/models"))[1],
    "forbidden": lambda scene: scene.client().post(
        "/v1/jobs", json=BODY, headers=_keyed(scene, models=("another",))
    ),
    "not_found": lambda scene: scene.client().get("/v1/jobs/job_00000000000000000000000000"),
    "model_not_found": lambda scene: scene.client().post("/v1/jobs", json=BODY | {"model": "gpt-4o"}),
    "method_not_allowed": lambda scene: scene.client().get("/v1/chat/completions"),
    "memory_never_fits": _too_large,
    "body_too_large": lambda scene: scene.client(max_body_bytes=10).post("/v1/jobs", json=BODY),
    "unsupported_media_type": lambda scene: scene.client().post("/v1/jobs", data="model=a"),
    "idempotency_mismatch": _twice,
    "rate_limit_exceeded": lambda scene: _second(scene, _keyed(scene, tokens_per_minute=60)),
    "cancelled": _cancelled,
    "internal_error": _bug,
    "worker_killed": lambda scene: scene.failed(
        Failure(Fault.BUG, died=True, company=1, exit_name="SIGABRT")
    ),
    "queue_full": lambda scene: _second(scene, max_queued_jobs=1),
    "no_worker": lambda scene: scene.client(queue_without_worker=False).post("/v1/jobs", json=BODY),
    "queue_timeout": _overdue,
    "store_unavailable": _read_only,
    "storage_full": _upload,
    "insufficient_memory": lambda scene: scene.failed(
        Failure(Fault.OUT_OF_MEMORY, died=False, company=1, limit_bytes=18 * GIB)
    ),
    "engine_timeout": lambda scene: scene.failed(Failure(Fault.GPU_TIMEOUT, died=True, company=1)),
    "run_timeout": lambda scene: scene.ended(lambda desk, _: desk.end_unwanted(), run_timeout=60),
}


_SHOWN: Final = {
    r"job_[0-9a-z]{26}": "job_…",
    r'("retry_after": )\d+': r"\g<1>12",
    r"for \d+\.\d s": "for 61.5 s",
    r'("reset_seconds": )[0-9.]+': r"\g<1>45.9",
    r"than the \d+ left": "than the 14 left",
    r'("remaining_tokens": )\d+': r"\g<1>14",
}
"""What is drawn, or measured, and what stands in its place."""


def settled(answer: TestResponse) -> str:
    """A body as it stands in the docs: ids shortened, what is drawn or measured as it is for everybody."""
    text = json.dumps(answer.get_json(), indent=2, ensure_ascii=False)
    for drawn, shown in _SHOWN.items():
        text = re.sub(drawn, shown, text)
    return text
