"""RQ's commands to a worker, whoever sends them."""

from __future__ import annotations

import pytest
from redis import Redis

from workers.metal_worker import MetalWorker


@pytest.mark.parametrize(
    "said",
    [
        b"rubbish",
        b"\xff",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"command": []}',
        b'{"command": "stop-execution", "execution_id": []}',
        b"[" * 100_000,
        1,
    ],
    ids=lambda said: repr(said)[:40],
)
def test_a_command_that_is_none_is_passed_over(connection: Redis, said: object) -> None:
    """RQ's thread hears the next one."""
    worker = MetalWorker(["standard"], connection=connection)
    worker.handle_payload({"data": said})
    worker.handle_payload({"data": b'{"command": "stop-job", "job_id": "a job"}'})
    assert worker._unwanted.get_nowait() == "a job"
