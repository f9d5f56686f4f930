"""The state table, ids and leases."""

from __future__ import annotations

import itertools

import pytest

from scheduler.errors import TransitionRefused
from scheduler.job import (
    HOLDING,
    JOB_ID,
    TERMINAL,
    TRANSITIONS,
    Event,
    Lease,
    State,
    advance,
    made_at,
    new_job_id,
)

PAIRS = list(itertools.product(State, Event))


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=[f"{s}-{e}" for s, e in PAIRS])
def test_a_job_moves_by_the_table_or_not_at_all(state: State, event: Event) -> None:
    """Each of the 36 pairs leads where its row says, or raises, naming both."""
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(TransitionRefused, match=f"{state} cannot {event}"):
            advance(state, event)


def test_terminal_states_are_those_that_nothing_leaves() -> None:
    """The set follows from the table."""
    assert {State.COMPLETED, State.INCOMPLETE, State.FAILED, State.CANCELLED} == TERMINAL
    for state, event in itertools.product(TERMINAL, Event):
        with pytest.raises(TransitionRefused):
            advance(state, event)


def test_every_state_can_be_reached_and_can_end() -> None:
    """From queued each state is reached, and from each some terminal one."""

    def reached(start: State) -> set[State]:
        seen, wave = {start}, {start}
        while wave:
            wave = {to for (origin, _), to in TRANSITIONS.items() if origin in wave} - seen
            seen |= wave
        return seen

    assert reached(State.QUEUED) == set(State)
    assert all(reached(state) & TERMINAL for state in State)


def test_only_a_claimed_job_holds_memory() -> None:
    """Rule 2's states: what a claim leads to, and nothing else."""
    assert {State.IN_PROGRESS} == HOLDING


def test_ids_sort_by_the_time_of_their_making() -> None:
    """Later is larger as text, whatever the random part; a millisecond is told apart."""
    most, least = (1 << 80) - 1, 0
    moments = [0.0, 0.001, 1.0, 1_700_000_000.0, 1_700_000_000.001, 4e9, 2.0**47 / 1000]
    ids = [
        new_job_id(moment, entropy)
        for moment, entropy in zip(moments, itertools.cycle((most, least)), strict=False)
    ]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("moment", [0.0, 0.001, 1_700_000_000.001, 4e9])
def test_an_id_tells_when_it_was_made(moment: float) -> None:
    """To the millisecond."""
    assert made_at(new_job_id(moment)) == pytest.approx(moment, abs=0.00101)


@pytest.mark.parametrize("text", ["", "job_", "someone-elses", "job_ü\ufffdilou", "8" * 99])
def test_an_id_of_others_tells_some_time(text: str) -> None:
    """Or none: a number all the same."""
    assert made_at(text) >= 0


def test_ids_have_one_form_and_do_not_repeat() -> None:
    """Made by the clock, in the same millisecond, a thousand differ and match the pattern."""
    ids = {new_job_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(JOB_ID.fullmatch(each) for each in ids)


@pytest.mark.parametrize("lease", [Lease("w", 1), Lease("host/1234", 12), Lease("ä:b c/d/", 999)], ids=str)
def test_a_lease_is_read_as_it_was_written(lease: Lease) -> None:
    """Workers' names may hold slashes, colons, spaces and any letters."""
    assert Lease.parse(str(lease)) == lease


@pytest.mark.parametrize("text", ["", "w", "/1", "w/", "w/x", "w/1.5"])
def test_a_lease_that_nobody_wrote_is_refused(text: str) -> None:
    """A worker and a number, or ValueError."""
    with pytest.raises(ValueError):
        Lease.parse(text)


def test_ids_of_one_millisecond_sort_by_the_moment_within_it() -> None:
    """A client's second job comes no sooner than its first, however fast it was."""
    moments = [1_700_000_000.0 + at * 2e-6 for at in range(400)]
    made = [new_job_id(moment) for moment in moments]
    assert made == sorted(made)
    assert len({job_id[:14] for job_id in made}) == 1
