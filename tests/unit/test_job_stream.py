"""What a job's own stream says where it is not to tell what it reads."""

from __future__ import annotations

from typing import cast

import pytest

from api import sse
from api.services import Services
from scheduler.events import Kind, LoggedEvent


def stream(monkeypatch: pytest.MonkeyPatch, gone: bool) -> list[bytes]:
    """A stream's pieces, where a worker of a later release says much that this one does not know."""
    looks = [[LoggedEvent(number, Kind.OTHER)] for number in (4, 5)]
    monkeypatch.setattr(sse, "watch", lambda *_: iter(looks))
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.0)
    return list(sse.job_stream(cast("Services", None), "job_x", 3, lambda: gone))


def test_events_that_are_not_told_are_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client hears that the stream lives, as in any other silence."""
    assert stream(monkeypatch, gone=False)[1:] == [sse.HEARTBEAT, sse.HEARTBEAT, sse.DONE]


def test_a_client_that_left_meanwhile_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would end its stream before the job's end."""
    assert stream(monkeypatch, gone=True)[1:] == []
