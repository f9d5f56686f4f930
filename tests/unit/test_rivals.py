"""What a worker claims that was beaten to a job."""

from __future__ import annotations

import pytest

from scheduler.admission import Candidate, Choice, Limits, Look, choose
from scheduler.backfill import Promises
from scheduler.ledger import Ledger
from scheduler.rivals import places, step_aside
from tests.unit.test_admission import LARGE, busy, chosen, idle, job

LIMITS = Limits(32, 3)


def aside(steps: int, *classes: list[Candidate], ledger: Ledger | None = None) -> Choice | None:
    """What is claimed so many places behind what is due."""
    account = ledger or idle()
    look = choose(classes, account, 0.0, LIMITS, None, Promises())
    return step_aside(look, classes, account, 0.0, LIMITS, steps)


def test_who_was_never_beaten_claims_in_strict_order() -> None:
    """One place to draw from: what is due."""
    assert places(0) == 1
    assert chosen(aside(0, [job("a"), job("b")])) == ("a", ())


def test_places_double_up_to_sixteen() -> None:
    """With every defeat of the same claim."""
    assert [places(beaten) for beaten in (1, 2, 3, 4, 5, 1000)] == [2, 4, 8, 16, 16, 16]


def test_those_left_to_others_count_as_passed() -> None:
    """In case they wait on."""
    assert chosen(aside(2, [job("a"), job("b"), job("c")])) == ("c", ("a", "b"))


def test_nobody_steps_behind_the_last_of_a_class() -> None:
    """A less urgent class is no place to step to."""
    assert chosen(aside(9, [job("a"), job("b")], [job("later")])) == ("b", ("a",))


def test_a_job_that_was_passed_as_often_as_may_be_is_left_to_nobody() -> None:
    """It is taken, or another has it."""
    assert chosen(aside(9, [job("a"), job("b", passes=3), job("c")])) == ("b", ())


def test_nobody_steps_behind_what_does_not_fit() -> None:
    """That one waits for memory, and those behind it for its promise."""
    assert chosen(aside(9, [job("a"), job("large", LARGE), job("b")], ledger=busy())) == ("a", ())


def test_where_a_job_waits_for_memory_nobody_steps_aside() -> None:
    """What is due passes it by a rule that is not bent."""
    assert chosen(aside(9, [job("large", LARGE), job("a"), job("b")], ledger=busy())) == ("a", ("large",))


@pytest.mark.parametrize("steps", [0, 5])
def test_where_nothing_is_due_nothing_is_claimed(steps: int) -> None:
    """However far aside."""
    assert step_aside(Look(), [[job("large", LARGE)]], busy(LARGE), 0.0, LIMITS, steps) is None
