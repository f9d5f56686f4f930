"""`rq info` and rq-dashboard beside the API: one queue, seen three ways, with a real worker on it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import rq.serializers
import rq_dashboard.cli
import rq_dashboard.web
from flask.testing import FlaskClient
from rq.serializers import JSONSerializer

from tests.contract.served import serve
from tests.running import RunningWorker, Site, a_site
from tests.waiting import wait_until

_LONG: Final = 3500


@dataclass
class Seen:
    """A worker that runs one job, jobs that wait, and what looks at them."""

    site: Site
    worker: RunningWorker
    api: httpx.Client
    board: FlaskClient
    runs: str

    def waiting(self) -> dict[str, int]:
        """Waiting jobs by class, as the API counts them."""
        classes = self.api.get("/v1/capacity").json()["queue"]["by_priority"]
        return {name: said["jobs"] for name, said in classes.items()}

    def ids(self, status: str, priority: str) -> list[str]:
        """Jobs of a state and a class, oldest first, as the API lists them."""
        query = {"status": status, "priority": priority, "order": "asc"}
        return [job["id"] for job in self.api.get("/v1/jobs", params=query).json()["data"]]

    def data(self, path: str) -> Any:
        """What a page of rq-dashboard shows."""
        answer = self.board.get(f"/0/data/{path}.json")
        assert answer.status_code == 200, answer.text
        return answer.json

    def listed(self, queue: str, registry: str) -> list[dict[str, Any]]:
        """The jobs on one of its pages."""
        found: list[dict[str, Any]] = self.data(f"jobs/{queue}/{registry}/50/asc/1")["jobs"]
        return found

    def press(self, path: str) -> Any:
        """One of its buttons."""
        answer = self.board.post(path)
        assert answer.status_code == 200, answer.text
        return answer.json

    def begin(self, job_id: str) -> None:
        """Let the engine go until a job runs, and stand still then."""
        os.kill(self.worker.engine_pid, signal.SIGCONT)
        self.site.until_tokens([job_id], 1)
        os.kill(self.worker.engine_pid, signal.SIGSTOP)
        self.runs = job_id


@pytest.fixture(scope="module")
def board() -> Iterator[Any]:
    """What makes rq-dashboard's own application, as docs/rq-tools.md starts it: with JSON wherever RQ would take pickle."""
    before = rq.serializers.PickleSerializer, rq_dashboard.web.config.serializer
    rq.serializers.PickleSerializer = rq_dashboard.web.config.serializer = JSONSerializer

    def make(url: str) -> FlaskClient:
        app = rq_dashboard.cli.make_flask_app(None, None, None, "")
        app.config["RQ_DASHBOARD_REDIS_URL"] = url
        rq_dashboard.web.setup_rq_connection(app)
        return app.test_client()

    yield make
    rq.serializers.PickleSerializer, rq_dashboard.web.config.serializer = before


@pytest.fixture(scope="module")
def seen(
    tiny_model: Path, cards: Path, board: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seen]:
    """The engine stands still from its first token on: what is seen does not change while it is looked at."""
    with (
        a_site(
            {"tiny": tiny_model}, cards=cards, max_batch=1, progress_timeout=900, lease_seconds=60
        ) as site,
        serve(site.url, tmp_path_factory.mktemp("api"), f"tiny={tiny_model}") as url,
        httpx.Client(base_url=url, timeout=30) as api,
        site.worker("--maintenance-interval", "1") as worker,  # ten minutes are RQ's own
    ):
        found = Seen(site, worker, api, board(site.url), "")
        found.begin(site.submit(max_tokens=_LONG))
        for priority, count in (("standard", 3), ("batch", 2)):
            for _ in range(count):
                site.submit(max_tokens=2, priority=priority)
        yield found


def info(url: str, *options: str) -> str:
    """What `rq info` prints; where it is no terminal, without colours."""
    command = [sys.executable, "-m", "rq.cli", "info", "--url", url, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_rq_info_counts_what_the_api_counts(seen: Seen) -> None:
    """By queue, waiting and running; and its workers are the API's, each on the queues that it listens to."""
    raw, by_queue = info(seen.site.url, "--raw"), info(seen.site.url, "--by-queue")
    waiting = seen.waiting()
    assert (waiting["standard"], waiting["batch"]) == (3, 2)
    counted = {
        name: (int(waits), int(runs))
        for name, waits, runs in re.findall(r"(?m)^queue (\w+) (\d+), (\d+) executing", raw)
    }
    for name, count in waiting.items():
        assert counted.get(name, (0, 0)) == (count, len(seen.ids("in_progress", name)))
    (worker,) = seen.api.get("/v1/capacity").json()["workers"]
    assert f"worker {worker['name']} (" in raw
    assert f") busy {', '.join(worker['queues'])}. jobs: " in raw
    for name in counted:
        assert re.search(rf"(?m)^{name}: +{worker['name']} \(busy\)$", by_queue), by_queue


def test_rq_dashboard_shows_the_apis_jobs(seen: Seen) -> None:
    """The same waiting and running ones in the same order; each says its model and class, and its page what it is."""
    queues = {each["name"]: each for each in seen.data("queues")["queues"]}
    for name, count in seen.waiting().items():
        said = queues.get(name, {"count": 0, "started_job_registry_count": 0})
        running = seen.ids("in_progress", name)
        assert (said["count"], said["started_job_registry_count"]) == (count, len(running))
        for registry, ids in (("queued", seen.ids("queued", name)), ("started", running)):
            shown = seen.listed(name, registry)
            assert [each["id"] for each in shown] == ids
            assert {each["description"] for each in shown} <= {f"tiny ({name})"}
    for job_id, status in ((seen.runs, "started"), (seen.ids("queued", "batch")[0], "queued")):
        page, ours = seen.data(f"job/{job_id}"), seen.api.get(f"/v1/jobs/{job_id}").json()
        assert (page["status"], page["origin"]) == (status, ours["priority"])
        assert f'"estimated_bytes": {ours["memory"]["estimated_bytes"]}' in page["metadata"]


def test_rq_dashboard_shows_the_worker_and_what_it_runs(seen: Seen) -> None:
    """Busy, on its queues, with the job that the API says is in progress; every page itself is there."""
    (worker,) = seen.data("workers")["workers"]
    (ours,) = seen.api.get("/v1/capacity").json()["workers"]
    assert (worker["name"], worker["pid"]) == (ours["name"], ours["pid"])
    assert worker["queues"] == ours["queues"]
    assert worker["state"].endswith("BUSY") or worker["state"] == "busy"
    assert worker["current_job"]["job_id"] == seen.runs
    for path in ("/", "/0/view/workers", "/0/view/jobs/standard/queued/8/asc/1", f"/0/view/job/{seen.runs}"):
        answer = seen.board.get(path)
        assert (answer.status_code, answer.mimetype) == (200, "text/html")


def test_rq_dashboards_buttons_do_no_lasting_harm(seen: Seen) -> None:
    """Delete, empty, requeue and compact: what they take away is gone for good, and the rest goes on, rightly counted."""
    before, others = seen.waiting(), seen.ids("queued", "standard") + seen.ids("queued", "batch")
    mine = [seen.site.submit(max_tokens=2, priority="interactive") for _ in range(3)]
    seen.press(f"/job/{mine[0]}/delete")
    assert seen.api.get(f"/v1/jobs/{mine[0]}").status_code == 404
    assert seen.ids("queued", "interactive") == mine[1:]
    seen.press("/queue/interactive/compact")
    seen.press("/queue/interactive/queued/empty")
    assert [seen.api.get(f"/v1/jobs/{each}").status_code for each in mine] == [404] * 3

    late = seen.site.submit(max_tokens=2, priority="interactive", queue_timeout=0.01)
    wait_until(lambda: seen.api.get(f"/v1/jobs/{late}").json()["status"] == "failed", f"{late} failed", 60)
    assert [each["id"] for each in seen.listed("interactive", "failed")] == [late]
    seen.press(f"/job/{late}/requeue")
    wait_until(lambda: seen.waiting() == before, "the counts are right again", 60)
    assert seen.api.get(f"/v1/jobs/{late}").json()["status"] == "failed", "it has ended for its client"

    gone, follows = seen.runs, seen.site.submit(max_tokens=_LONG, priority="interactive")
    seen.press(f"/job/{gone}/delete")
    seen.begin(follows)
    assert seen.api.get(f"/v1/jobs/{gone}").status_code == 404
    assert seen.ids("queued", "standard") + seen.ids("queued", "batch") == others
    wait_until(lambda: seen.waiting() == before, "the counts are right again", 60)
    assert "Traceback" not in seen.worker.log
