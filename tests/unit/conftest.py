"""What unit tests share: a clock that a test turns."""

from __future__ import annotations

import pytest

from tests.waiting import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)
