"""What others put among a worker's jobs stops nobody: pickles, rubbish, jobs of other programs."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from tests.running import RunningWorker, Site
from tests.undisturbed import undisturbed


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[RunningWorker]:
    """The module's worker."""
    with site.worker() as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(site: Site, worker: RunningWorker) -> Iterator[None]:
    """What each test leaves behind is the next one's beginning."""
    with undisturbed(site, worker):
        yield


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.fspath(self.mark),))


BADS = ("job_" + "0" * 25 + digit for digit in "0123456789abcdefghjkmnpqrs")


def poison(site: Site, queue: str, **fields: Any) -> str:
    """Write a hash that nobody validated, at the head of a queue."""
    job_id = next(BADS)
    base: dict[str, Any] = {"status": "queued", "created_at": "2026-01-01T00:00:00.000000Z", "origin": queue}
    site.connection.hset(Job.key_for(job_id), mapping=base | fields)
    site.connection.lpush(f"rq:queue:{queue}", job_id)
    return job_id


def good_fields(site: Site) -> dict[str, Any]:
    """A real job's data and meta."""
    job_id = site.submit(max_tokens=1)
    site.ended(job_id)
    data, meta = site.connection.hmget(Job.key_for(job_id), "data", "meta")  # type: ignore[misc]
    return {"data": data, "meta": meta}


def test_what_is_pickled_is_never_unpickled(site: Site, tmp_path: Path) -> None:
    """In a job's data, its meta, its result, the list, the channels: no mark is left and the worker goes on."""
    mark = tmp_path / "unpickled"
    trap = pickle.dumps(("os.getcwd", None, (Trap(mark),), {}))
    good = good_fields(site)
    bad = [
        poison(site, "standard", data=trap, meta=trap),
        poison(site, "standard", data=trap, meta=good["meta"]),
        poison(site, "standard", data=good["data"], meta=trap),
    ]
    site.connection.lpush("rq:queue:standard", trap)
    site.connection.publish("tidegate:wake", trap)
    site.connection.publish(f"tidegate:inbox:{next(iter(site.lifecycle.workers())).name}", trap)
    try:
        assert site.text(site.submit(max_tokens=3), 20)
    finally:
        for job_id in bad:
            remove(site, job_id)
        site.connection.lrem("rq:queue:standard", 0, trap)  # type: ignore[arg-type]
    assert not mark.exists()


ENVELOPE = {"version": 1, "request": {"model": "tiny", "prompt": "p", "max_tokens": 1}}
META = {"model": "tiny", "max_tokens": 1}

RUBBISH: list[tuple[Any, Any, dict[str, Any]]] = [
    (ENVELOPE, [], {}),
    (ENVELOPE, {}, {}),
    (ENVELOPE, None, {}),
    (ENVELOPE, {"model": 3, "max_tokens": "x", "prompt_tokens": None}, {}),
    (ENVELOPE, {"model": "tiny", "max_tokens": -5, "attempt": "a", "seed": {}}, {}),
    (ENVELOPE, {"model": "tiny", "max_tokens": float("inf")}, {}),
    (ENVELOPE, {"model": ["tiny"]}, {}),
    (ENVELOPE, META | {"priority": "nobody's"}, {}),
    (ENVELOPE, META | {"version": 99}, {}),
    (ENVELOPE, META | {"ended_as": "nothing"}, {}),
    (ENVELOPE, META, {"created_at": "yesterday"}),
    (ENVELOPE, META, {"status": b"\xff"}),
    (ENVELOPE, META, {"lease": b"\xff"}),
    (ENVELOPE, META, {"lease": "nobody"}),
    ({"version": 1}, META, {}),
    ({"version": 1, "request": []}, META, {}),
    ({"version": 1, "request": {"prompt": 3}}, META, {}),
    ({"version": [1]}, META, {}),
]


@pytest.mark.parametrize(("envelope", "meta", "fields"), RUBBISH, ids=range(len(RUBBISH)))
def test_a_job_whose_fields_are_rubbish_stops_nobody(
    site: Site, envelope: Any, meta: Any, fields: dict[str, Any]
) -> None:
    """It is left alone or ended; the jobs behind it run."""
    data = json.dumps(["workers.run.generate", None, [], envelope])
    bad = poison(site, "standard", data=data, meta=json.dumps(meta), **fields)
    try:
        assert site.text(site.submit(max_tokens=3), 20)
    finally:
        remove(site, bad)


def remove(site: Site, job_id: str) -> None:
    """Take away what nobody owns."""
    site.lifecycle.connection.lrem("rq:queue:standard", 0, job_id)
    keys = [
        Job.key_for(job_id),
        f"rq:executions:{job_id}",
        f"rq:results:{job_id}",
        f"tidegate:events:{job_id}",
    ]
    site.connection.delete(*keys)
    for key in site.connection.scan_iter("rq:*standard"):
        if site.connection.type(key) == b"zset":
            site.connection.zrem(key, job_id)


def test_many_strangers_at_the_head_do_not_starve_the_rest(site: Site) -> None:
    """Jobs of other programs, and ids whose jobs are gone, more than a claim looks at: ours still run."""
    queue = Queue("standard", connection=site.connection, serializer=JSONSerializer)
    strangers = [queue.enqueue("os.getcwd", result_ttl=60) for _ in range(20)]
    ghosts = [f"ghost-{at}" for at in range(20)]
    site.connection.lpush("rq:queue:standard", *ghosts)
    try:
        assert site.text(site.submit(max_tokens=3), 15)
        assert all(job.get_status() is not JobStatus.FINISHED for job in strangers)
    finally:
        for job in strangers:
            site.connection.lrem("rq:queue:standard", 0, job.id)
            job.delete()
        for ghost in ghosts:
            site.connection.lrem("rq:queue:standard", 0, ghost)
