"""Points and marks of a worker's recent past, as tests write them."""

from __future__ import annotations

from typing import Any

from scheduler.tide import Kind, Mark, Point

GIB = 1 << 30
JOB = "job_" + "0" * 26

POINT = Point(
    at=1_764_000_000.0,
    budget_bytes=GIB,
    working_bytes=GIB,
    weights_bytes=1 << 20,
    reserved_bytes=4096,
    used_bytes=2 << 20,
    cache_bytes=0,
    headroom_bytes=GIB - (1 << 20) - 4096,
    running=1,
    tokens_per_second=3.5,
)


def mark(kind: Kind, *, at: float = POINT.at, job_id: str | None = JOB, **more: Any) -> Mark:
    """A mark of a job that is nobody's."""
    return Mark(at, kind, "words", job_id, **({"bytes": 4096} | more))
