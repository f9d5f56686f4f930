"""What the log says while the queue's server is away."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
from structlog.testing import capture_logs

from api import batch_feeder
from api.batch_feeder import BatchFeeder
from scheduler.errors import StoreUnavailable
from scheduler.settings import load
from tests.waiting import wait_until


def test_batches_tell_once_that_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line without frames until it is back, which is another; the next time it is told anew."""
    monkeypatch.setattr(batch_feeder, "AGAIN_SECONDS", 0.001)
    away, rounds = StoreUnavailable("away"), 0
    script: list[Exception | None] = [away, away, away, None, away, None]

    def played(_: BatchFeeder) -> float:
        nonlocal rounds
        rounds += 1
        if rounds <= len(script) and (error := script[rounds - 1]) is not None:
            raise error
        return 0.001

    monkeypatch.setattr(BatchFeeder, "round", played)
    nothing = MagicMock(settings=load())
    with capture_logs() as logged:
        feeder = BatchFeeder(nothing, nothing, nothing, {})
        feeder.wake()
        wait_until(lambda: rounds > len(script), "the server is back")
        feeder.close()
    assert [line["event"] for line in logged] == 2 * [
        "the queue's server is away",
        "the queue's server is back",
    ]
    assert not any("frames" in line for line in logged)
