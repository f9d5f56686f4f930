"""The pure parts of chaos: what is drawn from a seed, and what is read off the wire."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from benchmarks.chaos import LEAST_KILLS, failed
from benchmarks.chaos_blows import SHARES, drawn_blows, drawn_strikes
from benchmarks.swap_reader import MOMENTS, SUBMIT, Move, answers, moves, split
from scheduler.events import Kind, LoggedEvent, append_command
from scheduler.job import TRANSITIONS
from scheduler.swap import Guard, Swap, Word, encode

JOB = "job_0000000000000000000000001a"
HELD = Guard(("HMGET", f"rq:job:{JOB}", "lease", "status"), "one/1\nstarted", "words")
WAITS = Guard(("HGET", f"rq:job:{JOB}", "status"), "queued")


def said(words: list[Word]) -> bytes:
    """A command as a client sends it."""
    parts = [str(word).encode() for word in words]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)])


def swapped(*swaps: Swap) -> list[Word]:
    """A command of swaps."""
    return ["EVALSHA", "0123abcd", 0, *encode(swaps)]


def writes(kind: Kind, *guards: Guard) -> Swap:
    """A swap that writes an event."""
    return Swap(guards, (("HSET", f"rq:job:{JOB}", "x", 1), append_command(JOB, LoggedEvent(3, kind))))


def read(words: list[Word]) -> list[Move]:
    """What a command's moves are read as, from its bytes."""
    commands, rest = split(said(words))
    assert rest == b""
    return [move for _, each in commands for move in moves(each)]


@pytest.mark.parametrize(
    ("swap", "moment"),
    [
        (writes(Kind.QUEUED), SUBMIT),
        (writes(Kind.STARTED, WAITS), "queued claim"),
        (writes(Kind.FAILED, WAITS), "queued fail"),
        (writes(Kind.CANCELLED, WAITS), "queued cancel"),
        (writes(Kind.REQUEUED, HELD), "in_progress requeue"),
        (writes(Kind.COMPLETED, HELD), "in_progress complete"),
        (writes(Kind.INCOMPLETE, HELD), "in_progress run_out"),
        (writes(Kind.FAILED, HELD), "in_progress fail"),
        (writes(Kind.CANCELLED, HELD), "in_progress cancel"),
    ],
)
def test_every_transition_is_read_off_its_swap(swap: Swap, moment: str) -> None:
    """By the event that it writes, and whether its guards ask for the lease; a delta moves nothing."""
    assert read(swapped(writes(Kind.DELTA, HELD), swap)) == [Move(JOB, moment, 1)]


def test_the_moments_are_the_table_and_the_submission() -> None:
    """One more than the table has rows."""
    assert len(MOMENTS) == len(set(MOMENTS)) == len(TRANSITIONS) + 1


@pytest.mark.parametrize(
    "words",
    [
        ["PING"],
        ["EVALSHA", "0123abcd", 1, "key", *encode([writes(Kind.STARTED)])],
        ["EVALSHA", "0123abcd", 0, "text"],
        ["EVALSHA", "0123abcd", 0, 5, 1],
        ["XADD", f"tidegate:events:{JOB}", "1-0", "kind", "queued"],
        swapped(Swap((), (append_command(JOB, LoggedEvent(1, Kind.COMPLETED)),))),
    ],
)
def test_what_is_no_transition_is_let_through(words: list[Word]) -> None:
    """Another's command or script, and a move that is not in the table."""
    assert read(words) == []


def test_commands_are_split_wherever_a_chunk_ends() -> None:
    """Each comes once, whole, as it was."""
    sent = [said(["GET", "a\r\nb"]), said(["PING"]), said(swapped(writes(Kind.QUEUED)))]
    whole = b"".join(sent)
    for cut in range(len(whole)):
        first, rest = split(whole[:cut])
        second, left = split(rest + whole[cut:])
        assert [raw for raw, _ in first + second] == sent
        assert left == b""
    assert [words[0] for _, words in split(whole)[0]] == [b"GET", b"PING", b"EVALSHA"]
    with pytest.raises(ValueError, match="no command"):
        split(b"PING\r\n")


def test_answers_say_which_swaps_were_done() -> None:
    """One number each; an error says none."""
    assert answers(b"*3\r\n:1\r\n:-2\r\n:1\r\n$1\r\n:\r\n") == [1, -2, 1]
    assert answers(b"-NOSCRIPT no\r\n") == []


def test_a_seed_draws_the_same_storm() -> None:
    """Each moment is struck before and after, once; blows come in their shares."""
    one, same, other = (drawn_strikes(random.Random(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert sorted((each.moment, each.when) for each in one) == sorted(
        (moment, when) for moment in MOMENTS for when in ("after", "before")
    )
    blows = list(islice(drawn_blows(random.Random(1)), 2 * sum(SHARES.values())))
    assert Counter(blows) == Counter({kind: 2 * share for kind, share in SHARES.items()})


@pytest.mark.parametrize(
    ("figures", "fails"),
    [
        ({"accepted": 9, "kills": LEAST_KILLS}, False),
        ({"accepted": 9, "kills": LEAST_KILLS - 1}, True),
        *(({name: 1, "kills": 99}, True) for name in ("lost", "doubled", "changed", "leaked")),
    ],
)
def test_anything_wrong_fails_the_run(figures: dict[str, int], fails: bool) -> None:
    """And so does a storm that killed too little to tell."""
    assert failed(Counter(figures), 1) == fails
