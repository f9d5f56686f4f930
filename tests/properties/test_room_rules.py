"""Places held and jobs that wait, over whole histories of arrivals, starts and clients who come again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.clock import SLOWER, Starts, Work
from scheduler.promise import Booking, promise, whose
from scheduler.room import Board, Full, Limits, Most, ask, ask_due
from scheduler.verdict import WorkerView

BOUNDS = Most(6, 120, 600.0)
PLACES = 2
RATE = 20.0

histories = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(1, 40)),
        st.tuples(st.just("come again"), st.integers(0, 30)),
        st.tuples(st.just("start"), st.integers(1, 3)),
        st.tuples(st.just("pass"), st.integers(1, 60)),
    ),
    max_size=60,
)


@dataclass
class Client:
    """One that was refused."""

    name: str
    tokens: int
    come_at: float


class Queue:
    """A queue by the rules, without a store: whoever is decided on is served before the next is looked at."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting: list[int] = []
        self.bookings: list[Booking] = []
        self.refused: list[Client] = []
        self.count = 0
        self.next_start: float | None = None

    def board(self, others: list[Booking]) -> Board:
        work = Work(len(self.waiting), sum(self.waiting))
        ends = tuple((1.0 + place, 100) for place in range(PLACES))
        if self.next_start is not None:
            ends = ((self.next_start - self.now, 100),)
        worker = WorkerView(
            "w",
            1000,
            512,
            frozenset({"m"}),
            {},
            seconds_to_free=ends,
            max_batch=len(ends),
            work_tokens_per_second=RATE,
        )
        starts = Starts([worker], work, 20)
        return Board(self.now, {"standard": work}, starts, starts, BOUNDS, others)

    def due(self) -> list[Booking]:
        """Places that newcomers are kept off now."""
        return [each for each in self.bookings if each.due <= self.now and each.keeps_off(self.now)]

    def come(self, name: str, tokens: int) -> bool:
        """Let a client in or refuse it; whether it got in."""
        self.bookings = [each for each in self.bookings if self.now < each.lapses_at]
        mine = whose(self.bookings, name, self.now, again=None)
        others = [each for each in self.bookings if each is not mine and each.keeps_off(self.now)]
        due = mine is not None and mine.due <= self.now
        if mine is not None and due:
            answer = ask_due(self.board([each for each in others if each.due < mine.due]), tokens)
        else:
            answer = ask(self.board(others), tokens, "standard")
        if isinstance(answer, Limits):
            self.let_in(answer, tokens, mine, others, due=due)
            return True
        self.hold(name, tokens, mine, answer)
        return False

    def let_in(
        self, limits: Limits, tokens: int, mine: Booking | None, others: list[Booking], *, due: bool
    ) -> None:
        assert len(self.waiting) <= limits.jobs < BOUNDS.jobs
        assert sum(self.waiting) <= limits.tokens
        self.waiting.append(tokens)
        if mine is not None:
            self.bookings.remove(mine)
        assert len(self.waiting) <= BOUNDS.jobs
        assert sum(self.waiting) <= BOUNDS.tokens
        if not due:  # a newcomer leaves room for all whose time has come
            held = [each for each in others if each.due <= self.now]
            assert len(self.waiting) + len(held) <= BOUNDS.jobs
            assert sum(self.waiting) + sum(each.tokens for each in held) <= BOUNDS.tokens

    def hold(self, name: str, tokens: int, mine: Booking | None, full: Full) -> None:
        assert full.starts >= 1
        told = promise(self.now, full.seconds)
        if mine is not None:
            self.bookings.remove(mine)
        serial = mine.serial if mine is not None else f"{self.count:08x}"
        self.bookings.append(Booking(name, serial, told.due, told.come_at, tokens, "standard"))
        self.refused.append(Client(name, tokens, told.come_at))


@settings(max_examples=300, deadline=None)
@given(histories)
def test_held_places_and_waiting_jobs_stay_within_the_bounds(history: list[tuple[str, int]]) -> None:
    """The bounds hold for everybody, and newcomers leave those whose time has come their room."""
    queue = Queue()
    for what, number in history:
        if what == "come":
            queue.count += 1
            queue.come(f"{queue.count:032x}", number)
        elif what == "come again" and queue.refused:
            client = queue.refused.pop(number % len(queue.refused))
            queue.now = max(queue.now, client.come_at)
            queue.come(client.name, client.tokens)
        elif what == "start":
            del queue.waiting[:number]
        elif what == "pass":
            queue.now += number / 10


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.0, 1.5), min_size=8, max_size=60), st.floats(0.7, SLOWER))
def test_who_comes_when_it_was_told_gets_in(pauses: list[float], slower: float) -> None:
    """Where jobs start no later than was promised: every client, on its first return, whoever else comes."""
    queue = Queue()
    moments = accumulate(pauses, initial=queue.now)
    events = [(at, number) for number, at in enumerate([*[queue.now] * 8, *moments])]
    queue.next_start = queue.now
    while events:
        at, number = events.pop(0)
        while queue.next_start <= at:  # one place, each job for as long as its twenty tokens take
            del queue.waiting[:1]
            queue.next_start += 20 / RATE * slower
        queue.now = at
        again = any(each.digest == f"{number:032x}" for each in queue.bookings)
        admitted = queue.come(f"{number:032x}", 20)
        if again:
            assert admitted, f"client {number} came at {at} as it was told, and was refused"
        elif not admitted:
            events.append((queue.refused[-1].come_at, number))
            events.sort()
