"""Whether the queue has room, and when it will: boards laid out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from scheduler.clock import Starts, Work, total
from scheduler.promise import Booking
from scheduler.room import CAUTION, Board, Full, Limits, Most, ask, ask_due, patience_tokens
from scheduler.verdict import WorkerView

NOW = 1000.0


def steady(waiting: Work, *, rate: float = 10.0) -> Starts:
    """One place, whose jobs of ten tokens take a second each."""
    worker = WorkerView(
        "w",
        1000,
        512,
        frozenset({"m"}),
        {},
        seconds_to_free=((1.0, 100),),
        max_batch=1,
        work_tokens_per_second=rate,
    )
    return Starts([worker], waiting, 10)


def board(
    jobs: int = 0,
    *bookings: Booking,
    most: Most = Most(4, 1000, 600.0),  # noqa: B008 - frozen
    waiting: Mapping[str, tuple[int, int]] | None = None,
    rate: float = 10.0,
) -> Board:
    """So many jobs of ten tokens wait."""
    waits = {"standard": (jobs, 10 * jobs)} if waiting is None else waiting
    starts = steady(total(waits.values()), rate=rate)
    return Board(NOW, waits, starts, starts, most, bookings)


def place(due_in: float, tokens: int = 10, priority: str = "standard") -> Booking:
    """One that is held."""
    return Booking("d" * 32, "0" * 8, NOW + due_in, NOW + due_in, tokens, priority)


def test_there_is_room_up_to_the_bound() -> None:
    """What may wait before the newcomer is the bound less itself."""
    assert ask(board(3), 10, "standard") == Limits(3, 990)
    assert isinstance(ask(board(4), 10, "standard"), Full)


def test_the_bound_in_tokens_is_one_too() -> None:
    """To the token; a job beyond it by itself gets in where nothing waits."""
    tight = Most(100, 35, 600.0)
    assert ask(board(2, most=tight), 15, "standard") == Limits(99, 20)
    full = ask(board(2, most=tight), 16, "standard")
    assert isinstance(full, Full)
    assert full.starts == 1
    assert ask(board(0, most=tight), 99, "standard") == Limits(99, 0)
    assert isinstance(ask(board(1, most=tight), 99, "standard"), Full)


def test_who_is_refused_is_told_when_all_before_it_have_had_room() -> None:
    """The first of a full queue waits for one start, the third for three."""
    assert ask(board(4), 10, "standard") == Full(1, board(4).starts.surely(1), 5.0)
    third = ask(board(4, place(2), place(3)), 10, "standard")
    assert isinstance(third, Full)
    assert third.starts == 3
    assert third.seconds == board(4).starts.surely(3) > 3.0


def test_work_that_is_over_counts_in_jobs_of_the_usual_size() -> None:
    """Twenty-five tokens over the bound: three jobs of ten must start."""
    tight = Most(100, 40, 600.0)
    full = ask(board(4, most=tight), 25, "standard")
    assert isinstance(full, Full)
    assert full.starts == 3


def test_newcomers_are_kept_off_places_that_are_held() -> None:
    """One place is free, and held for a moment at which nothing more will surely have started."""
    assert isinstance(ask(board(3, place(0.5)), 10, "standard"), Full)
    assert isinstance(ask(board(3, place(-0.5)), 10, "standard"), Full)
    assert ask(board(2, place(0.5)), 10, "standard") == Limits(2, 980)


def test_a_place_that_will_be_there_in_time_keeps_nobody_off() -> None:
    """By then as many have surely started as the newcomer puts before it."""
    assert ask(board(3, place(CAUTION * board(3).starts.surely(1))), 10, "standard") == Limits(3, 990)
    later = CAUTION * board(3).starts.surely(2)
    assert isinstance(ask(board(3, place(later), place(later), place(later)), 10, "standard"), Full)


def test_a_queue_that_runs_empty_before_takes_newcomers() -> None:
    """However many places are held for later: nobody idles for their sake."""
    many = [place(30.0) for _ in range(40)]
    assert isinstance(ask(board(0, *many), 10, "standard"), Limits)
    assert isinstance(ask(board(3, *many), 10, "standard"), Limits)
    assert isinstance(ask(board(3, *(place(0.1) for _ in range(40))), 10, "standard"), Full)


def test_who_is_due_is_kept_off_by_the_bounds_alone() -> None:
    """Not by others who are due, nor by the target; it is told of those before it where there is no room."""
    short = Most(4, 1000, 0.5)
    assert ask_due(board(3, place(-1), place(0), most=short), 10) == Limits(3, 990)
    full = ask_due(board(4, place(-1)), 10)
    assert isinstance(full, Full)
    assert full.starts == 2
    assert isinstance(ask_due(board(2, most=Most(4, 25, 600.0)), 10), Full)


def test_nobody_is_taken_who_would_start_beyond_the_target() -> None:
    """Three seconds' worth of jobs of a second each; the next is told when it would be in time."""
    patient = Most(1000, 100_000, 3.0)
    assert isinstance(ask(board(2, most=patient), 10, "standard"), Limits)
    full = ask(board(5, most=patient), 10, "standard")
    assert isinstance(full, Full)
    assert (full.starts, full.expected_start_seconds) == (3, 6.0)


def test_only_what_goes_before_counts_against_the_target() -> None:
    """A batch job waits for as long as it takes, and keeps no other waiting; interactive ones go first."""
    patient = Most(1000, 100_000, 3.0)
    assert isinstance(ask(board(50, most=patient), 10, "batch"), Limits)
    behind = {"batch": (50, 500)}
    assert isinstance(ask(board(most=patient, waiting=behind), 10, "standard"), Limits)
    ahead = {"interactive": (50, 500)}
    assert isinstance(ask(board(most=patient, waiting=ahead), 10, "standard"), Full)
    late = {"standard": (50, 500)}
    assert isinstance(ask(board(most=patient, waiting=late), 10, "interactive"), Limits)


def test_where_nothing_waits_before_it_a_job_is_taken() -> None:
    """Though what runs takes longer than the target: it could not be told of a better time."""
    assert isinstance(ask(board(0, most=Most(4, 1000, 0.1)), 10, "standard"), Limits)


def test_a_target_binds_only_where_the_speed_was_measured() -> None:
    """Nobody is refused for a guess."""
    unknown = board(50, most=Most(1000, 100_000, 3.0), rate=0.0)
    assert patience_tokens(unknown.starts, 3.0) == math.inf
    assert isinstance(ask(unknown, 10, "standard"), Limits)


@pytest.mark.parametrize("due_in", [-1e9, 1e9])
def test_a_place_at_any_moment_has_an_answer(due_in: float) -> None:
    """In bounded time."""
    assert ask(board(2, place(due_in)), 10, "standard") in {Limits(2, 980), Limits(3, 990)}
