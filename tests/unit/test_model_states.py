"""How a model stands on the workers: the one that is farthest with it tells."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.fleet import WorkerReport, state_of
from scheduler.job import PRIORITIES


def worker(engine: str, *loaded: str, queues: tuple[str, ...] = PRIORITIES) -> WorkerReport:
    """One that serves `m` and `n`."""
    sizes: dict[str, Any] = dict.fromkeys(
        ("budget_bytes", "weights_bytes", "reserved_bytes", "used_bytes", "cache_bytes", "headroom_bytes"), 0
    )
    return WorkerReport(
        **sizes,
        name="w",
        host="h",
        pid=1,
        engine=engine,
        budget_source="",
        limits_bytes={},
        chunk_tokens=1,
        served=("m", "n"),
        cards={name: {} for name in loaded},
        queues=queues,
    )


@pytest.mark.parametrize(
    ("workers", "state"),
    [
        ([], "unserved"),
        ([worker("ready", queues=("default",))], "unserved"),
        ([worker("ready")], "served"),
        ([worker("loading n")], "served"),
        ([worker("loading m")], "loading"),
        ([worker("loading m"), worker("measuring m")], "measuring"),
        ([worker("measuring m"), worker("ready", "m")], "loaded"),
        ([worker("measuring n", "m")], "loaded"),
        ([worker("cooling down")], "served"),
        ([worker("dancing m")], "served"),
    ],
)
def test_the_worker_that_is_farthest_tells(workers: list[WorkerReport], state: str) -> None:
    """Whatever an engine says that it does."""
    assert state_of(workers, "m") == state
