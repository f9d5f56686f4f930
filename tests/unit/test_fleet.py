"""Workers' reports, as this version and later ones write them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from scheduler.fleet import RunningReport, WorkerReport, ready_models
from scheduler.foresight import Row
from scheduler.verdict import Decision, judge
from tests.pretend_worker import CARD

REPORT = WorkerReport(
    name="w",
    host="h",
    pid=1,
    engine="ready",
    budget_bytes=1 << 30,
    budget_source="set",
    limits_bytes={"set": 1 << 30},
    weights_bytes=5,
    reserved_bytes=6,
    used_bytes=7,
    cache_bytes=8,
    headroom_bytes=9,
    chunk_tokens=512,
    served=(CARD.model,),
    cards=json.loads(json.dumps({CARD.model: CARD.to_json()})),
    running=(RunningReport("job_1", CARD.model, 100, 30), RunningReport("job_2", CARD.model, 50, 10)),
    tokens_per_second=20.0,
    queues=("standard",),
    counters={"sheds": 2},
    updated_at=5.0,
)


def test_a_report_is_read_as_it_was_written() -> None:
    """Every field, jobs and counters too."""
    assert WorkerReport.parse(REPORT.dump().encode()) == REPORT
    assert REPORT.view().cards == {CARD.model: CARD}


def test_cache_is_free_to_admission() -> None:
    """Reclaimable bytes count as headroom; running jobs share the measured rate."""
    view = REPORT.view()
    assert view.headroom_bytes == 17
    assert view.seconds_to_free == ((3.0, 100), (1.0, 50))


def said(**fields: Any) -> WorkerReport:
    """The report, with other fields."""
    return WorkerReport.parse(json.dumps(json.loads(REPORT.dump()) | fields).encode())


def test_a_later_version_may_say_more() -> None:
    """Fields that this version does not know are dropped, at the top and in each running job."""
    running = [{"job_id": "job_1", "model": "m", "reserved_bytes": 1, "remaining_tokens": 2, "mood": "calm"}]
    report = said(weather="fine", running=running)
    assert replace(report, running=REPORT.running) == REPORT
    assert report.running == (RunningReport("job_1", "m", 1, 2),)


@pytest.mark.parametrize("card", [{"version": 2}, {}, {"version": 1, "model": "m"}])
def test_a_card_of_another_version_leaves_it_open(card: dict[str, Any]) -> None:
    """A worker whose card cannot be read has not measured, as far as this process knows; nobody fails."""
    view = said(cards={CARD.model: card}).view()
    assert view.cards == {}
    assert judge([view], CARD.model, Row(1 << 30, 1)).decision is Decision.WAITS


ODD: dict[str, Any] = {
    "budget_bytes": "plenty",
    "served": 5,
    "queues": None,
    "cards": {"m": []},
    "running": [{"job_id": "job_1"}],
    "limits_bytes": {"set": None},
    "tokens_per_second": math.nan,
    "updated_at": math.inf,
}


@pytest.mark.parametrize("name", ODD)
def test_a_report_with_an_odd_field_is_no_report(name: str) -> None:
    """It would break whoever reads it."""
    with pytest.raises(ValueError):
        said(**{name: ODD[name]})


@pytest.mark.parametrize(
    "text",
    [b"", b"rubbish", b"[]", b"5", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"name": "w"}'],
    ids=repr,
)
def test_rubbish_is_no_report(text: bytes) -> None:
    """Whatever it is, it is said by one kind of error."""
    with pytest.raises(ValueError):
        WorkerReport.parse(text)


def test_a_card_with_odd_fields_is_no_card() -> None:
    """Of this version by its number alone."""
    assert said(cards={CARD.model: CARD.to_json() | {"weights_bytes": "many"}}).view().cards == {}


def test_a_worker_takes_what_its_queues_hold() -> None:
    """A model is served for those classes only that its worker listens to; for none, it is not ready."""
    assert REPORT.takes(CARD.model, "standard")
    assert not REPORT.takes(CARD.model, "batch")
    assert not REPORT.takes("another", "standard")
    assert ready_models([REPORT]) == {CARD.model}
    assert ready_models([replace(REPORT, queues=("default",))]) == set()


@pytest.mark.parametrize("far", [{}, {"prompt_tokens": -1}, [], "far", {"prompt_tokens": 1 << 60}])
def test_a_jobs_progress_that_cannot_be_read_costs_nothing_else(far: Any) -> None:
    """As a later version may tell it otherwise: the worker is there all the same."""
    said = json.loads(REPORT.dump())
    said["running"][0]["far"] = far
    assert WorkerReport.parse(json.dumps(said).encode()) == REPORT
