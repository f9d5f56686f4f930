"""Nonsense planted in the pipes of a running worker and its engine: that engine ends, and its jobs go on in the next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fuzz.pipes import framed
from tests.running import RunningWorker, Site
from tests.waiting import wait_until
from workers.asked import MISUNDERSTOOD

SEEDED: list[dict[str, Any]] = [
    {"prompt": "one", "max_tokens": 800, "temperature": 1, "seed": 3},
    {"prompt": "two " * 20, "max_tokens": 800},
]
READS, WRITES = -2, -1
MEMORY = {"active_bytes": 5, "cache_bytes": 1}
STEP = {"key": "job_x/1", "at": 1.0, "tokens": ["5"]}
PLANTED = [
    (WRITES, framed({"kind": "step", "steps": [STEP], "memory": MEMORY}), 0),
    (READS, framed({"kind": "run", "key": "job_x/1"}), MISUNDERSTOOD),
]
"""Into which pipe, what, and how the engine ends."""


def plant(worker: RunningWorker, end: int, data: bytes) -> None:
    """Write into one of the engine's pipes, between two whole messages: the kernel mixes no writes as small as these."""
    fd = psutil.Process(worker.engine_pid).cmdline()[end]
    with Path(f"/proc/{worker.engine_pid}/fd/{fd}").open("wb", buffering=0) as pipe:
        pipe.write(data)


@pytest.mark.skipif(sys.platform != "linux", reason="another's pipe is reached by /proc")
def test_nonsense_in_a_pipe_costs_its_jobs_nothing_but_time(site: Site) -> None:
    """Whichever way it goes: the texts are the undisturbed ones, their logs have no gap, no traceback is written."""
    with site.worker() as worker:
        calm = [site.text(site.submit(**fields)) for fields in SEEDED]
        for end, data, code in PLANTED:
            wait_until(lambda: worker.ready, "a worker that is ready", 60)
            jobs = [site.submit(**fields) for fields in SEEDED]
            site.until_tokens(jobs, 1)
            pid = worker.engine_pid
            plant(worker, end, data)
            wait_until(lambda pid=pid: worker.engine_pid not in {0, pid}, "the next engine", 40)  # type: ignore[misc]
            assert [site.text(job_id) for job_id in jobs] == calm
            assert [site.get(job_id).meta.failures for job_id in jobs] == [0, 0]
            assert worker.log.count(f"exit_code={code}") == 1
        assert worker.log.count("engine died") == len(PLANTED)
        assert worker.log.count("EngineMisunderstoodError") == 1
        assert "Traceback" not in worker.log
