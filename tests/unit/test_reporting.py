"""To whom a worker listens."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from workers.reporting import Reporting


@pytest.mark.parametrize("queues", [(), ("default",), ("standard",), ("default", "batch")])
def test_a_worker_that_will_get_no_jobs_is_told_so(queues: tuple[str, ...]) -> None:
    """It listens to no class: its operator mistyped, or forgot to name them."""
    lifecycle: Any = None
    with capture_logs() as logged:
        Reporting(lifecycle, "w", queues, lambda: 0.0)
    warned = [line["queues"] for line in logged if line["log_level"] == "warning"]
    assert warned == ([] if {"standard", "batch"} & set(queues) else [list(queues)])
