"""The one vocabulary of why a job waits again."""

from __future__ import annotations

import inspect
import re

from api.job_stream import follow_job
from scheduler.blame import Fault
from scheduler.events import Kind
from scheduler.reasons import REASONS, Reason


def test_every_reason_is_one_word_with_a_sentence() -> None:
    """In snake case, in one order."""
    assert list(REASONS) == list(Reason)
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", reason) for reason in Reason)
    assert all(re.fullmatch(r"[A-Z][^.]*\.", sentence) for sentence in REASONS.values())


def test_every_fault_is_a_reason() -> None:
    """A failed attempt is put back with what it was taken for."""
    assert {fault.value for fault in Fault} <= {reason.value for reason in Reason}


def test_the_streams_page_tells_every_event_and_every_reason() -> None:
    """So that nobody has to read the source to follow a job."""
    words = set(re.findall(r"`(\w+)`", inspect.getdoc(follow_job) or ""))
    assert {kind.value for kind in Kind if kind not in {Kind.DELETED, Kind.OTHER}} <= words
    assert {reason.value for reason in Reason} <= words
