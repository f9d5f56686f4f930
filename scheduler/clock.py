"""When jobs that wait will start: the one clock behind ``eta_seconds`` and every ``retry_after``. Pure.

A worker has places: one for each job that it runs, and those that its free memory and its batch still
leave. The next job that waits takes the place that comes free soonest and stays as long as its work takes
among so many others (list scheduling; R. L. Graham, "Bounds for certain multiprocessing anomalies", 1966).
What a worker says of its running jobs gives the first ends; the measured rate of work gives the stays.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from scheduler.verdict import WorkerView

DEFAULT_TOKENS_PER_SECOND: Final = 20.0
"""Assumed where nothing was measured yet: a small model on a laptop."""

STALE_SECONDS: Final = 15.0
"""A report is taken to be no older than this: hosts' clocks differ."""

SPREAD: Final = 0.5
"""Of the square root of a count of starts: how far a count strays. Ends that came wholly at random would
stray by once the root; answers' lengths stray by about half their mean, and so do counts of them."""

SLOWER: Final = 1.05
"""How much slower than it was just measured a worker may turn out to be."""

SLOWEST: Final = 0.01
"""Tokens a second; a worker that says less is taken to make so many."""

COOLING_MOST_SECONDS: Final = 300.0
"""For how long a worker that cools down is believed to, whatever it says."""

_PLACES_MOST: Final = 512
"""Of one worker, whatever it says of itself."""

_COUNTED_MOST: Final = 512
"""Starts that are followed one by one; those behind them come at the workers' rate."""

_LOOKED_AT_MOST: Final = 1 << 13
"""Starts by a moment that are counted; more than there are places held."""


class Work(NamedTuple):
    """Jobs and their tokens of work, prompt and expected answer."""

    jobs: int = 0
    tokens: int = 0

    def plus(self, other: tuple[int, int]) -> Work:
        """Both."""
        return Work(self.jobs + other[0], self.tokens + other[1])


def total(amounts: Iterable[tuple[int, int]]) -> Work:
    """All of them together."""
    summed = Work()
    for each in amounts:
        summed = summed.plus(each)
    return summed


class Starts:
    """When each of the next jobs starts, in seconds from now, whatever its class.

    Args:
        workers: those that would take the jobs.
        waiting: what waits now; its mean is what a job is taken to need.
        own: the work of the job that is asked about: the mean where nothing waits.
        need_bytes: what it needs beside the weights; 0 where that is not known.
        now_seconds: Unix seconds, by which reports have aged.
    """

    def __init__(
        self,
        workers: Sequence[WorkerView],
        waiting: Work,
        own: int = 1,
        need_bytes: int = 0,
        now_seconds: float = 0.0,
    ) -> None:
        self.mean_tokens = max(1.0, waiting.tokens / waiting.jobs if waiting.jobs else own)
        self.measured = any(rate_of(worker) for worker in workers)
        """Whether any of the workers has measured how fast it is."""
        self._need_bytes = need_bytes
        self._workers = [(worker, age_of(worker, now_seconds)) for worker in workers]
        self._cool = [cooling_seconds(worker, now_seconds) for worker in workers]
        places = [
            place
            for (worker, age), cool_in in zip(self._workers, self._cool, strict=True)
            for place in _places(worker, self.mean_tokens, need_bytes, age, waiting.jobs, cool_in)
        ]
        if not places:
            places = [(0.0, self.mean_tokens / DEFAULT_TOKENS_PER_SECOND)]
        self._per_second = sum(1 / stay for _, stay in places)
        self._ends = places
        heapq.heapify(self._ends)
        self._times: list[float] = []

    def nth(self, count: float) -> float:
        """Seconds until so many of the jobs have started; 0 where that is none."""
        whole = math.ceil(count)
        if whole <= 0:
            return 0.0
        followed = min(whole, _COUNTED_MOST)
        while len(self._times) < followed:
            free_in, stay = self._ends[0]
            heapq.heapreplace(self._ends, (free_in + stay, stay))
            self._times.append(free_in)
        return self._times[followed - 1] + (whole - followed) / self._per_second

    def surely(self, count: int) -> float:
        """Seconds until so many have started even where things go slower than foreseen."""
        return SLOWER * self.nth(count + SPREAD * math.sqrt(count)) if count > 0 else 0.0

    def surely_by(self, moments: Iterable[float]) -> list[int]:
        """How many have surely started by each of some moments, which come in order."""
        counts: list[int] = []
        count = 0
        for seconds in moments:
            while self.surely(count + 1) <= seconds and count < _LOOKED_AT_MOST:
                count += 1
            counts.append(count)
        return counts

    def by(self, seconds: float) -> int:
        """How many are expected to have started by then."""
        self.nth(1)
        while len(self._times) < _COUNTED_MOST and self._times[-1] <= seconds:
            self.nth(len(self._times) + 1)
        found = bisect.bisect_right(self._times, seconds)
        if found < _COUNTED_MOST:
            return found
        return found + math.floor((seconds - self._times[-1]) * self._per_second)

    def own(self, ahead_jobs: int) -> float:
        """Seconds until the job that is asked about starts behind so many others, its memory there."""
        if not self._workers and not ahead_jobs:
            return 0.0
        frees = [
            max(cool_in, _seconds_until_free(worker, self._need_bytes) - age)
            for (worker, age), cool_in in zip(self._workers, self._cool, strict=True)
        ]
        spans = [_spans(worker, self._need_bytes) for worker, _ in self._workers]
        return max(self._once(ahead_jobs + min(spans, default=1)), min(frees, default=0.0))

    def _once(self, whole: int) -> float:
        """:meth:`nth` for one question: the starts that surely lie before are passed over together.

        By a moment at which all places are in use, a place that is free in ``f`` and taken for ``s`` seconds at a
        time was taken at most ``(moment - f) / s + 1`` times, and at least once less.
        """
        followed = min(whole, _COUNTED_MOST)
        before = followed - len(self._ends) - 2 + sum(free_in / stay for free_in, stay in self._ends)
        moment = before / self._per_second
        if self._times or moment <= max(free_in for free_in, _ in self._ends):
            return self.nth(whole)
        taken = [math.floor((moment - free_in) / stay) + 1 for free_in, stay in self._ends]
        ends = [
            (free_in + times * stay, stay) for (free_in, stay), times in zip(self._ends, taken, strict=True)
        ]
        heapq.heapify(ends)
        for _ in range(followed - sum(taken) - 1):
            free_in, stay = ends[0]
            heapq.heapreplace(ends, (free_in + stay, stay))
        return ends[0][0] + (whole - followed) / self._per_second


def seconds_until_free(
    ending: Iterable[tuple[float, int]], headroom_bytes: int, need_bytes: int
) -> float | None:
    """When running jobs will have given back enough, in seconds from now; None where they never do.

    Args:
        ending: (seconds until it ends, bytes it gives back), one for each running job.
        headroom_bytes: free now.
        need_bytes: wanted.
    """
    free = headroom_bytes
    if free >= need_bytes:
        return 0.0
    for seconds, given_back in sorted(ending):
        free += given_back
        if free >= need_bytes:
            return seconds
    return None


def soon_tokens(workers: Iterable[WorkerView], within_seconds: float) -> float:
    """Tokens that may wait before a job that starts in time even so; no bound where no speed was measured.

    A bound that is quickly had: a job starts at the latest when the workers, all busy, have done what runs and
    what waits before it.
    """
    tokens, measured = 0.0, False
    for worker in workers:
        seconds = [left for left, _ in worker.seconds_to_free]
        measured = measured or rate_of(worker) > 0
        tokens += rate_of(worker) * max(0.0, within_seconds - sum(seconds) / max(1, len(seconds)))
    return tokens if measured else math.inf


def _seconds_until_free(worker: WorkerView, need_bytes: int) -> float:
    """When a worker has so much memory free; where it never will, when it has all that it has."""
    found = seconds_until_free(worker.seconds_to_free, worker.headroom_bytes, need_bytes)
    return (
        max(seconds for seconds, _ in worker.seconds_to_free)
        if found is None and worker.seconds_to_free
        else found or 0.0
    )


def rate_of(worker: WorkerView) -> float:
    """A worker's measured tokens of work a second; 0 where it has measured nothing."""
    rate = worker.work_tokens_per_second or worker.tokens_per_second
    return max(SLOWEST, rate) if rate > 0 else 0.0


def age_of(worker: WorkerView, now_seconds: float) -> float:
    """How old what a worker said is, in seconds."""
    return min(STALE_SECONDS, max(0.0, now_seconds - worker.reported_at)) if worker.reported_at else 0.0


def cooling_seconds(worker: WorkerView, now_seconds: float) -> float:
    """For how long a worker starts no engine yet; 0 where it does not cool down."""
    return (
        min(COOLING_MOST_SECONDS, max(0.0, worker.cools_until - now_seconds)) if worker.cools_until else 0.0
    )


def _places(
    worker: WorkerView,
    work_tokens: float,
    need_bytes: int,
    age_seconds: float,
    waiting_jobs: int,
    cool_in: float,
) -> Iterable[tuple[float, float]]:
    """A worker's places: in how many seconds each is free, and how long a job then stays.

    One that cools down has none before it is cool. Where jobs wait, a place that has come free since the report is
    taken again already; so is one that was free then, where more wait than it had room for.
    """
    running = len(worker.seconds_to_free)
    room = worker.headroom_bytes // max(1, _typical_bytes(worker) or need_bytes)
    vacant = max(0 if running else 1, min(worker.max_batch - running, room, _PLACES_MOST))
    stay = work_tokens * (running + vacant) / (rate_of(worker) or DEFAULT_TOKENS_PER_SECOND)
    for seconds, _ in worker.seconds_to_free:
        left = seconds - age_seconds
        yield max(cool_in, left % stay if waiting_jobs and left < 0 else left), stay
    taken = waiting_jobs > vacant and age_seconds > 0 and not cool_in
    yield from itertools.repeat((max(cool_in, stay - age_seconds / 2 if taken else 0.0), stay), vacant)


def _typical_bytes(worker: WorkerView) -> int:
    """What a running job holds on the average; 0 where none runs."""
    held = [given_back for _, given_back in worker.seconds_to_free]
    return sum(held) // len(held) if held else 0


def _spans(worker: WorkerView, need_bytes: int) -> int:
    """How many places of the usual size must come free for a job, beside what is free already."""
    typical = _typical_bytes(worker)
    lacks = need_bytes - max(0, worker.headroom_bytes)
    return max(1, round(lacks / typical)) if typical > 0 else 1
