"""Whose job comes next inside a class, over whole histories of claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.shares import FORGIVEN, Lane, Served, Turn, Waiter, fair_order

OWNERS = ("a", "b", "c", "d")
LARGEST = 100

sizes = st.lists(st.integers(1, LARGEST), min_size=1, max_size=8)


class Class:
    """One class and its account, without a store: owners whose jobs come in a round of sizes, without end."""

    def __init__(self, rounds: Sequence[Sequence[int]]) -> None:
        self.rounds = dict(zip(OWNERS, rounds, strict=False))
        self.claimed: Counter[str] = Counter()
        self.work: Counter[str] = Counter()
        self.served = Served()
        self.waiting = set(self.rounds)

    def order(self, count: int) -> list[tuple[str, Turn, int]]:
        """A look: owner, turn and work of the first jobs."""
        lanes = [
            Lane(
                owner,
                0.0,
                [
                    Waiter(f"{owner} {at}", self.rounds[owner][at % len(self.rounds[owner])])
                    for at in range(self.claimed[owner], self.claimed[owner] + count)
                ],
            )
            for owner in sorted(self.waiting)
        ]
        work = {job.job_id: (lane.owner, job.work_tokens) for lane in lanes for job in lane.jobs}
        turns = fair_order(lanes, self.served, count)
        return [(work[turn.job_id][0], turn, work[turn.job_id][1]) for turn in turns]

    def take(self, count: int = 1) -> None:
        """Claim the first jobs of one look."""
        for owner, turn, tokens in self.order(count):
            self.claimed[owner] += 1
            self.work[owner] += tokens
            self.served.charge(owner, turn, tokens)

    def spread(self, since: Counter[str] | None = None) -> int:
        """The largest difference between two waiting owners in what they were served."""
        amounts = [self.work[owner] - (since or Counter())[owner] for owner in self.waiting]
        return max(amounts) - min(amounts)


@settings(max_examples=200, deadline=None)
@given(st.lists(sizes, min_size=2, max_size=4), st.lists(st.integers(1, 16), max_size=60))
def test_owners_that_always_wait_are_served_alike(rounds: list[list[int]], looks: list[int]) -> None:
    """To the largest job, at every look, whatever the sizes and however many jobs a look takes."""
    queue = Class(rounds)
    for count in looks:
        queue.take(count)
        assert queue.spread() <= max(map(max, rounds))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(sizes, min_size=3, max_size=4),
    st.integers(0, 40),
    st.integers(1, 200),
    st.lists(st.integers(1, 16), max_size=30),
)
def test_an_owner_that_returns_is_neither_ahead_nor_behind(
    rounds: list[list[int]], before: int, away: int, looks: list[int]
) -> None:
    """Its standing is the others' to the largest job; so what they get from then on differs by two at most."""
    queue, largest = Class(rounds), max(map(max, rounds))
    queue.take(before)
    queue.waiting.remove("a")
    queue.take(away)
    queue.waiting.add("a")
    standings = [queue.served.standing(owner) for owner in queue.waiting]
    assert max(standings) - min(standings) <= largest
    since = queue.work.copy()
    for count in looks:
        queue.take(count)
        assert queue.spread(since) <= 2 * largest


def test_leaving_for_a_moment_resets_no_debt() -> None:
    """Served a large job, gone, and back: others are still served as much first."""
    queue = Class([[100], [10]])
    queue.take()
    assert queue.work == {"a": 100}
    queue.waiting.remove("a")
    queue.take()
    queue.waiting.add("a")
    queue.take(9)
    assert queue.work == {"a": 100, "b": 100}


def test_a_thousand_jobs_do_not_shut_out_one() -> None:
    """Whoever comes with one job has it next, though another's thousand came before."""
    lanes = [Lane("a", 0.0, [Waiter(f"a{at}", 10) for at in range(1000)]), Lane("b", 5.0, [Waiter("b", 10)])]
    assert [turn.job_id for turn in fair_order(lanes, Served(), 4)] == ["a0", "b", "a1", "a2"]


def test_what_was_paid_for_comes_first_and_costs_nothing() -> None:
    """A job that was put back, though its owner was served most; its owner's next job waits its turn."""
    lanes = [
        Lane("a", 0.0, [Waiter("back", 50, paid=True), Waiter("a", 5)]),
        Lane("b", 1.0, [Waiter("b", 5)]),
    ]
    turns = fair_order(lanes, Served({"a": 7.0}, 1.0), 3)
    assert [(turn.job_id, turn.start) for turn in turns] == [("back", 7.0), ("b", 1.0), ("a", 7.0)]


def test_an_order_changes_no_account() -> None:
    """It is a look; claims charge."""
    served = Served({"a": 7.0}, 1.0)
    fair_order([Lane("a", 0.0, [Waiter("a", 5)]), Lane("b", 1.0, [Waiter("b", 5)])], served, 2)
    assert served == Served({"a": 7.0}, 1.0)


@pytest.mark.parametrize("first", [0, 1])
def test_claims_of_one_look_by_two_workers_are_both_charged(first: int) -> None:
    """Two of an owner's jobs, taken by two workers in either order: the sum is theirs."""
    served = Served()
    turns = fair_order([Lane("a", 0.0, [Waiter("a0", 10), Waiter("a1", 20)])], served, 2)
    for at in (first, 1 - first):
        served.charge("a", turns[at], (10, 20)[at])
    assert served.standing("a") == 30


def test_many_that_come_once_keep_nobody_waiting_for_ever() -> None:
    """Each stands at the clock, below one that was served much; the clock moves with them all the same."""
    served, came = Served({"large": 1000.0}), 0
    while True:
        lanes = [Lane("large", 0.0, [Waiter("l", 10)]), Lane(f"o{came}", 1.0, [Waiter("o", 10)])]
        turn = fair_order(lanes, served, 1)[0]
        if turn.job_id == "l":
            break
        served.charge(f"o{came}", turn, 10, last=True)
        came += 1
    assert came == pytest.approx(1000 / (10 * FORGIVEN), rel=0.01)
    assert sum(score > served.clock for score in served.scores.values()) <= 1 / FORGIVEN
