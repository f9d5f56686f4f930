"""Whose fault a failed attempt was: the table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scheduler.blame import VICTIMS_MOST, Failure, Fault, judge_failure
from scheduler.errors import ClientError
from scheduler.record import Meta

FRESH = Meta(estimated_bytes=5 << 30, budget_bytes=4 << 30)
BLAMED = replace(FRESH, failures=1, company_most=1)
MEMORY = (Fault.OUT_OF_MEMORY, Fault.RESOURCE_LIMIT)


def judged(meta: Meta, fault: Fault, *, died: bool, company: int, most: int = 2) -> Meta | ClientError:
    """What becomes of a job."""
    failure = Failure(
        fault, died=died, company=company, exit_name="SIGSEGV" if died else "", limit_bytes=3 << 30
    )
    return judge_failure(meta, failure, most, 12.0)


@pytest.mark.parametrize("fault", set(Fault) - {Fault.VICTIM})
@pytest.mark.parametrize("died", [True, False])
def test_the_first_failure_in_company_divides_nobody(fault: Fault, *, died: bool) -> None:
    """Nobody is blamed yet: no failure is counted, and all go on together."""
    assert judged(FRESH, fault, died=died, company=32) == replace(FRESH, suspicions=1)


@pytest.mark.parametrize("fault", set(Fault) - {Fault.VICTIM})
@pytest.mark.parametrize("died", [True, False])
def test_each_further_failure_in_company_halves_it(fault: Fault, *, died: bool) -> None:
    """Of 32: 16, 8, 4, 2, and then alone, as far as there is company at all."""
    meta, company, seen = replace(FRESH, suspicions=1), 32, []
    while company > 1:
        again = judged(meta, fault, died=died, company=company)
        assert isinstance(again, Meta)
        assert again.failures == 0
        assert again.company_most is not None
        meta, company = again, again.company_most
        seen.append(company)
    assert seen == [16, 8, 4, 2, 1]


def test_a_bound_never_grows() -> None:
    """Where a model that was loaded counts as company too, there may be more than the job's bound."""
    meta = replace(FRESH, suspicions=3, company_most=1)
    again = judged(meta, Fault.BUG, died=True, company=6)
    assert isinstance(again, Meta)
    assert again.company_most == 1


@pytest.mark.parametrize("fault", set(Fault))
def test_company_never_fails_a_job(fault: Fault) -> None:
    """However often it was there: innocents' attempts do not count."""
    meta = replace(FRESH, failures=1, suspicions=50)
    for died in (True, False):
        verdict = judged(meta, fault, died=died, company=2, most=1)
        assert isinstance(verdict, Meta)
        assert verdict.failures == 1


@pytest.mark.parametrize("died", [True, False])
@pytest.mark.parametrize("company", [1, 7])
def test_a_victim_goes_on_as_it_was(company: int, *, died: bool) -> None:
    """Another process's fault is nobody's here, but for ever it is not: then it counts as any other."""
    meta: Meta | ClientError = BLAMED
    for times in range(1, VICTIMS_MOST + 1):
        assert isinstance(meta, Meta)
        meta = judged(meta, Fault.VICTIM, died=died, company=company)
        assert meta == replace(BLAMED, victim_of=times)
    assert isinstance(meta, Meta)
    assert isinstance(judged(meta, Fault.VICTIM, died=died, company=1), ClientError)


@pytest.mark.parametrize("fault", set(Fault) - {Fault.VICTIM, Fault.BUFFER_TOO_LARGE})
@pytest.mark.parametrize("died", [True, False])
def test_alone_a_job_is_tried_once_more(fault: Fault, *, died: bool) -> None:
    """One failure of its own, and the next attempt alone again."""
    assert judged(FRESH, fault, died=died, company=1) == replace(FRESH, failures=1, company_most=1)


@pytest.mark.parametrize("fault", set(Fault) - {Fault.VICTIM})
def test_a_job_that_may_be_tried_once_is(fault: Fault) -> None:
    """``max_attempts: 1`` fails it at its own first failure."""
    assert isinstance(judged(FRESH, fault, died=True, company=1, most=1), ClientError)


@pytest.mark.parametrize(
    ("fault", "died", "code"),
    [
        *((fault, died, "insufficient_memory") for fault in MEMORY for died in (True, False)),
        (Fault.GPU_TIMEOUT, False, "engine_timeout"),
        (Fault.GPU_TIMEOUT, True, "engine_timeout"),
        (Fault.BUG, True, "worker_killed"),
        (Fault.BUG, False, "internal_error"),
        (Fault.BUFFER_TOO_LARGE, True, "memory_never_fits"),
        (Fault.BUFFER_TOO_LARGE, False, "memory_never_fits"),
    ],
)
def test_a_second_failure_alone_names_the_fault(fault: Fault, *, died: bool, code: str) -> None:
    """Out of memory can be retried later; a job that kills engines cannot."""
    error = judged(BLAMED, fault, died=died, company=1)
    assert isinstance(error, ClientError)
    assert error.code == code
    assert error.retry_after == (12 if error.row.retryable else None)


def test_a_buffer_that_no_device_takes_is_not_tried_again() -> None:
    """The same buffer would be asked for: 413 at once, with both numbers."""
    asked = Failure(Fault.BUFFER_TOO_LARGE, died=False, company=1, limit_bytes=3 << 30, need_bytes=5 << 30)
    error = judge_failure(FRESH, asked, 2, 7.0)
    assert isinstance(error, ClientError)
    assert (error.code, error.numbers) == (
        "memory_never_fits",
        {"estimated_bytes": 5 << 30, "limit_bytes": 3 << 30},
    )


@pytest.mark.parametrize("fault", [Fault.OUT_OF_MEMORY, Fault.BUG, Fault.GPU_TIMEOUT])
def test_no_wish_lets_a_job_end_more_than_two_engines(fault: Fault) -> None:
    """However often it would be tried: each costs all that run there; what MLX raised costs nobody."""
    once = judged(FRESH, fault, died=True, company=1, most=20)
    assert isinstance(once, Meta)
    assert isinstance(judged(once, fault, died=True, company=1, most=20), ClientError)
    raised = judged(once, Fault.BUG, died=False, company=1, most=20)
    assert isinstance(raised, Meta)


def test_a_victim_is_no_suspect() -> None:
    """The first failure in company after it is still nobody's."""
    victim = judged(FRESH, Fault.VICTIM, died=True, company=8)
    assert isinstance(victim, Meta)
    suspect = judged(victim, Fault.OUT_OF_MEMORY, died=True, company=8)
    assert isinstance(suspect, Meta)
    assert suspect.company_most is None


def test_running_out_alone_says_what_was_needed_and_what_there_was() -> None:
    """503 ``insufficient_memory`` with the numbers in the text and beside it."""
    error = judged(BLAMED, Fault.OUT_OF_MEMORY, died=True, company=1)
    assert isinstance(error, ClientError)
    said = "insufficient memory: the job needs 5.0 GiB; it ran out alone within 3.0 GiB"
    assert error.message == f"{said} (SIGSEGV, out of memory)"
    raised = judged(BLAMED, Fault.OUT_OF_MEMORY, died=False, company=1)
    assert isinstance(raised, ClientError)
    assert raised.message == said
    assert error.numbers == {"estimated_bytes": 5 << 30, "limit_bytes": 3 << 30}


@pytest.mark.parametrize(
    ("fault", "died", "message"),
    [
        (Fault.BUG, True, "the job ended its engine 2 times (SIGSEGV, bug)"),
        (Fault.BUG, False, "generation failed 2 times (bug)"),
        (Fault.GPU_TIMEOUT, True, "the engine made no progress (SIGSEGV, gpu timeout)"),
        (Fault.BUFFER_TOO_LARGE, False, "this job needs a buffer larger than the device takes"),
    ],
)
def test_a_failure_is_told_in_our_own_words(fault: Fault, *, died: bool, message: str) -> None:
    """How the process exited and the fault's class; there is no field for anybody else's text."""
    assert str(judged(BLAMED, fault, died=died, company=1)) == message


@pytest.mark.parametrize(
    ("stored", "read"), [(None, None), (7, 7), (1, 1), (0, 1), (-3, 1), (10**18, 10**18)]
)
def test_a_bound_that_lets_nobody_run_is_read_as_alone(stored: int | None, read: int | None) -> None:
    """Whoever writes to the server may have written it: no value keeps a job from running."""
    assert Meta.parse(json.dumps({"company_most": stored})).company_most == read


@pytest.mark.parametrize("stored", ["many", 2.5, [1], {}])
def test_a_bound_that_is_no_number_is_no_job_of_ours(stored: object) -> None:
    """As with every other field of another type."""
    with pytest.raises(ValueError, match="company_most"):
        Meta.parse(json.dumps({"company_most": stored}))


def test_jobs_of_an_earlier_version_may_have_any_company() -> None:
    """Their `alone` is dropped: they are bisected anew where it comes to that."""
    assert Meta.parse('{"alone": true, "suspicions": 1}') == Meta(suspicions=1)
