"""Whom an interactive job sends back to wait."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from scheduler.admission import Candidate
from scheduler.batch_account import Holder
from scheduler.footprint import batch_bytes
from scheduler.forecast import Rates
from scheduler.foresight import Row
from scheduler.ledger import Ledger
from scheduler.preemption import Running, victims
from tests.cards import PLAIN

ROW = Row(1000, 200)
URGENT = Candidate("urgent", PLAIN.model, ROW, priority="interactive")
RATES = Rates(0.1, 0.01)


def bench(priorities: str, **fields: Any) -> tuple[Ledger, list[Running]]:
    """A worker full of equal jobs, `i`nteractive, `s`tandard or `b`atch, the oldest first."""
    names = {"i": "interactive", "s": "standard", "b": "batch"}
    room = batch_bytes(PLAIN, [ROW] * len(priorities), 512, 1)
    ledger, running = Ledger(PLAIN.weights_bytes + room, 512, 1), []
    ledger.admit_model(PLAIN)
    for at, letter in enumerate(priorities):
        holder = Holder(f"job_{at}", 1)
        ledger.reserve(holder, PLAIN.model, ROW)
        running.append(Running(holder, names[letter], float(at), **{"preemptions": 0} | fields))
    assert not ledger.fits(PLAIN.model, ROW, 0.0)
    return ledger, running


def chosen(ledger: Ledger, running: list[Running], urgent: Candidate = URGENT, **fields: Any) -> list[str]:
    """Their names."""
    usual = {"rates": RATES, "starts_at": math.inf, "max_batch": 8, "max_preemptions": 3} | fields
    return [holder.job_id for holder in victims(urgent, running, ledger, 0.0, **usual)]


@pytest.mark.parametrize(
    ("priorities", "wanted"),
    [("bbb", ["job_2"]), ("bbs", ["job_1"]), ("bsi", ["job_0"]), ("sss", []), ("iii", []), ("iss", [])],
)
def test_the_youngest_batch_job_goes(priorities: str, wanted: list[str]) -> None:
    """Never a standard or an interactive one, and none where no batch job runs."""
    assert chosen(*bench(priorities)) == wanted


def test_who_gives_back_too_little_stays() -> None:
    """The youngest is small: the one before it is enough, and goes alone."""
    ledger, running = bench("bb")
    ledger.release(running[1].holder)
    small = Holder("small", 1)
    ledger.reserve(small, PLAIN.model, Row(1, 1))
    running[1] = replace(running[1], holder=small)
    assert not ledger.fits_without(PLAIN.model, Row(1300, 300), [small], 0.0)
    assert chosen(ledger, running, replace(URGENT, row=Row(1300, 300))) == ["job_0"]


def test_no_more_go_than_are_needed() -> None:
    """Two where one is not enough; nobody where all of them are not."""
    ledger, running = bench("bbb")
    long = Row(1500, 200)
    both = replace(URGENT, row=long)
    assert not ledger.fits_without(PLAIN.model, long, [running[2].holder], 0.0)
    assert chosen(ledger, running, both) == ["job_2", "job_1"]
    assert chosen(*bench("sbb"), replace(URGENT, row=Row(4000, 1400))) == []


def test_a_place_is_made_too() -> None:
    """Memory is not all that a job may wait for."""
    ledger, running = bench("bb")
    ledger.budget_bytes *= 100
    assert chosen(ledger, running, max_batch=2) == ["job_1"]


@pytest.mark.parametrize("priority", ["standard", "batch"])
def test_only_an_interactive_job_preempts(priority: str) -> None:
    """The others wait."""
    assert chosen(*bench("bbb"), replace(URGENT, priority=priority)) == []


def test_who_was_preempted_often_enough_stays() -> None:
    """The next youngest goes; with a bound of nothing nobody does."""
    ledger, running = bench("bbb")
    running[2] = replace(running[2], preemptions=3)
    assert chosen(ledger, running) == ["job_1"]
    assert chosen(ledger, running, max_preemptions=0) == []


def test_nobody_goes_for_a_job_that_starts_soon() -> None:
    """Twice what is computed again is spared, or more; an overdue promise is worth nothing; where rates are not known, nobody goes."""
    ledger, running = bench("bbb")
    ledger.advance(running[2].holder, 1100)
    again = 1100 * RATES.prompt_token_seconds
    assert chosen(ledger, running, starts_at=2 * again) == []
    assert chosen(ledger, running, starts_at=2 * again + 0.1) == ["job_2"]
    assert chosen(ledger, running, starts_at=-0.1) == ["job_2"]
    assert chosen(ledger, running, starts_at=9.0, rates=None) == []


def test_nobody_goes_for_a_job_that_could_not_start_then() -> None:
    """Its model is not in memory, or it may have little company: that many would have to go for."""
    assert chosen(*bench("bbb"), replace(URGENT, model="elsewhere")) == []
    assert chosen(*bench("bbb"), replace(URGENT, company_most=1)) == []
    assert chosen(*bench("bbb"), replace(URGENT, company_most=3)) == []


def test_who_takes_no_more_company_makes_a_place_by_going() -> None:
    """A job that may have no more company leaves by its own going, or others by theirs."""
    ledger, running = bench("bbb")
    running[2] = replace(running[2], company_most=3)
    assert chosen(ledger, running) == ["job_2"]
    running[0], running[2] = replace(running[0], company_most=2), replace(running[2], company_most=None)
    assert chosen(ledger, running) == ["job_2", "job_1"]
