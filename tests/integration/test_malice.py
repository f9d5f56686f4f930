"""Nothing read from the queue's server is unpickled, imported or called, whichever worker reads it (rule 8)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.malice import Malice
from tests.running import METAL, ROOT, Site, a_site
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # engines, one after another

PLAIN: Final = ("--serializer", "json", "--job-class", "workers.GenerationJob")
MOST_SECONDS: Final = 300.0
"""A job's, behind traps some of which are jobs that run, each in an engine of its own."""

LEFT: Final = frozenset(
    ("no data", "no hash", "scheduled", "fields", "return_value", "status", "failing", "intervals")
)
"""Traps that need not fail: without a call, which RQ passes over; not due; still a job; another version's job."""


@pytest.fixture(scope="module")
def house(tiny_model: Path, cards: Path) -> Iterator[Site]:
    """A server and a folder, where the model is measured once."""
    with a_site({"tiny": tiny_model}, cards=cards) as made:
        yield made


@pytest.fixture
def place(house: Site) -> Site:
    """The same, emptied: what is planted there is nobody's to tidy."""
    house.connection.flushall()
    return house


def planted(site: Site) -> Malice:
    """Every trap, on the site's server."""
    folder = Path(tempfile.mkdtemp(dir=site.folder, prefix="traps-"))
    malice = Malice(site.connection, folder, lambda: site.submit(max_tokens=2))
    malice.plant()
    return malice


def with_module(malice: Malice) -> tuple[str, ...]:
    """A command's beginning, by which the planted module can be imported."""
    return ("env", f"PYTHONPATH={os.fspath(ROOT)}:{malice.folder}")


@pytest.mark.parametrize(
    "words",
    [(), ("--serializer", "pickle", "--with-scheduler", "--job-class", "rq.job.Job")],
    ids=["as documented", "with other words"],
)
def test_metal_worker_runs_nothing_that_it_reads(place: Site, words: tuple[str, ...]) -> None:
    """Whatever its command line says; jobs beside the traps are answered, and what it hears changes nothing."""
    malice = planted(place)
    malice.plant_bytes()
    with place.worker(*words, kind=METAL, prefix=with_module(malice)) as worker:
        malice.say(worker.name)
        assert place.text(place.submit(max_tokens=2)), worker.log
        if words:
            due = "rq:scheduled:standard"
            wait_until(lambda: not place.connection.zcard(due), "RQ's scheduler has read what is due", 120)
        malice.say(worker.name)
        assert place.text(place.submit(max_tokens=2))
        assert worker.process.poll() is None
    assert malice.done == []


def test_a_plain_worker_as_documented_runs_nothing_that_it_reads(place: Site) -> None:
    """Each trap fails as a job, or is passed over, and the job behind them all is answered by the same worker."""
    malice = planted(place)
    path = with_module(malice)
    good = place.submit(max_tokens=2)
    with place.worker("--with-scheduler", kind=PLAIN, prefix=path, wait=False, lease_seconds=2) as worker:
        assert place.text(good, MOST_SECONDS), worker.log
        malice.say(worker.name)
        assert place.text(place.submit(max_tokens=2), MOST_SECONDS), worker.log
        assert worker.process.poll() is None, worker.log
        assert "NotGeneration" in worker.log
    for name, job_id in malice.jobs.items():
        if name not in LEFT:
            assert place.connection.hget(f"rq:job:{job_id}", "status") == b"failed", name
    assert malice.done == []


def test_a_worker_of_rqs_own_would_run_them(place: Site) -> None:
    """So the traps are traps: without the job class pickles are loaded, functions called, by one serializer or other."""
    malice = planted(place)
    for words in ((), ("--serializer", "json")):
        place.connection.flushall()
        malice.plant()
        for name in ("fields", "return_value"):  # jobs that would run
            place.connection.lrem("rq:queue:standard", 0, malice.jobs[name])
        kind = ("-w", "rq.SimpleWorker", *words)
        path = with_module(malice)
        with place.worker("--burst", kind=kind, prefix=path, wait=False, lease_seconds=2) as worker:
            worker.exit_code(MOST_SECONDS)
    assert {"data", "meta", "eval", "os-system", "imported", "imported-called"} <= {*malice.done}
