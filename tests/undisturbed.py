"""A worker that a test leaves as it found it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.running import RunningWorker, Site
from tests.waiting import wait_until


@contextmanager
def undisturbed(site: Site, worker: RunningWorker) -> Iterator[None]:
    """A block that ends with nothing waiting or running, and the same worker and engine alive."""
    engine = worker.engine_pid
    assert engine and worker.process.poll() is None, "an earlier test ended the worker"
    yield
    for page in (site.lifecycle.page(limit=200, status=(status,)) for status in ("queued", "in_progress")):
        for rec in page.records:
            site.lifecycle.cancel(rec.id)
            site.ended(rec.id)
    assert worker.process.poll() is None, worker.log[-4000:]
    assert worker.engine_pid == engine, worker.log[-4000:]
    idle = worker.report
    wait_until(lambda: (worker.report or idle).running == (), "an idle worker")  # type: ignore[union-attr]
    assert worker.report is not None and worker.report.reserved_bytes == 0
