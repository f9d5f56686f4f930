"""Workers of two releases on one queue: real processes, the later one's from a changed copy of the tree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job

from scheduler import fleet
from scheduler.events import Kind
from scheduler.job import State
from tests.running import ROOT, RunningWorker, Site
from tests.waiting import wait_until

PACKAGES = ("api", "scheduler", "workers", "tidegate")
CHANGES = (
    ("envelope.py", "ENVELOPE_VERSION: Final = 1\n", "ENVELOPE_VERSION: Final = 2\n"),
    ("envelope.py", "frozenset({ENVELOPE_VERSION})", "frozenset({1, ENVELOPE_VERSION})"),
    ("record.py", "    victim_of: int = 0\n", '    victim_of: int = 0\n    hue: str = "blue"\n'),
)
"""In ``scheduler``: another version, which reads both, and a field more."""

SUBMIT = """
import json, sys, redis
from scheduler.lifecycle import Lifecycle
from scheduler.request import read_request
from scheduler.settings import load
lifecycle = Lifecycle(redis.Redis.from_url(sys.argv[1]), load())
print(json.dumps([lifecycle.submit(read_request(body)).id for body in json.loads(sys.argv[2])]))
"""
SETTINGS = {"lease_seconds": 2, "memory_budget": "256MiB"}


@pytest.fixture(scope="module")
def later_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The later release."""
    tree = tmp_path_factory.mktemp("later")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in CHANGES:
        path = tree / "scheduler" / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} says {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))
    return tree


@pytest.fixture(scope="module")
def ours(site: Site) -> Iterator[RunningWorker]:
    """A worker of this release."""
    with site.worker(**SETTINGS) as worker:
        yield worker


def submit_as_later(site: Site, tree: Path, *bodies: dict[str, Any]) -> list[str]:
    """Jobs that an API of the later release would put in."""
    whole = [{"model": "tiny", "temperature": 0, "max_tokens": 16} | body for body in bodies]
    command = [sys.executable, "-c", SUBMIT, site.url, json.dumps(whole)]
    environment = site.environment() | {"PYTHONPATH": str(tree)}
    said = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(said.stdout)
    return found


def meta(site: Site, job_id: str) -> dict[str, Any]:
    """A job's fields as they stand on the server."""
    text: Any = site.connection.hget(Job.key_for(job_id), "meta")
    return dict(json.loads(text))


def ran_on(site: Site, job_id: str) -> list[str]:
    """The workers that took a job, in order."""
    return [event.data["worker"] for event in site.events(job_id) if event.kind is Kind.STARTED]


def test_each_job_ends_by_a_worker_that_reads_it(site: Site, later_tree: Path, ours: RunningWorker) -> None:
    """Jobs of both releases, put in by turns: the later one's run on its own worker alone."""
    with site.worker(tree=later_tree, **SETTINGS) as later:
        reads = {each.name: each.envelope_versions for each in fleet.live_workers(site.connection)}
        assert reads == {ours.name: (1,), later.name: (1, 2)}
        old, new = [], []
        for at in range(3):
            old.append(site.submit(f"old {at}"))
            new += submit_as_later(site, later_tree, {"prompt": f"new {at}"}, {"prompt": f"newer {at}"})
        for job_id in (*old, *new):
            assert site.ended(job_id).state is State.INCOMPLETE
            site.prove_log(job_id)
        assert {name for job_id in new for name in ran_on(site, job_id)} == {later.name}
        assert {meta(site, job_id)["hue"] for job_id in new} == {"blue"}


def test_a_job_whose_later_worker_died_waits_whole_for_another(
    site: Site, later_tree: Path, ours: RunningWorker
) -> None:
    """This release puts it back, runs its own jobs past it, and loses nothing of it; it goes on where it was."""
    with site.worker(tree=later_tree, **SETTINGS) as later:
        calm, job_id = submit_as_later(
            site, later_tree, {"prompt": "tide", "max_tokens": 1500}, {"prompt": "tide", "max_tokens": 1500}
        )
        site.until_tokens([calm, job_id], 50)
        later.process.kill()
        later.process.wait()
    waits = (calm, job_id)
    wait_until(lambda: all(site.get(each).state is State.QUEUED for each in waits), "they wait again", 20)
    assert all(meta(site, each)["hue"] == "blue" and meta(site, each)["version"] == 2 for each in waits)
    assert meta(site, job_id)["made_tokens"] >= 50
    behind = site.submit("behind")
    assert site.ended(behind).state is State.INCOMPLETE and ran_on(site, behind) == [ours.name]
    assert [site.get(each).state for each in waits] == [State.QUEUED, State.QUEUED]
    with site.worker(tree=later_tree, **SETTINGS) as again:
        assert site.text(calm) == site.text(job_id)
        assert ran_on(site, job_id) == [later.name, again.name]
        for each in waits:
            site.prove_log(each)
            assert meta(site, each)["hue"] == "blue"


def test_a_plain_worker_leaves_a_later_job_too(site: Site, later_tree: Path) -> None:
    """It cannot look past one; it lets it wait for others, behind what it can run, and fails it never."""
    (left,) = submit_as_later(site, later_tree, {"prompt": "left"})
    ours = site.submit("plain", max_tokens=2)
    with site.worker(kind=("--serializer", "json"), wait=False, lease_seconds=2):
        assert site.ended(ours).state is State.INCOMPLETE
        assert site.get(left).state in {State.QUEUED, State.IN_PROGRESS}
    with site.worker(tree=later_tree, **SETTINGS):
        assert site.ended(left).state is State.INCOMPLETE
        assert meta(site, left)["hue"] == "blue"
