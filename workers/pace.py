"""How fast loops and tokens come. Pure: the clock is an argument."""

from __future__ import annotations

import bisect
import collections
import itertools
import statistics
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from scheduler.forecast import Rates

_WINDOW_SECONDS: Final = 30.0
_SAMPLE_SECONDS: Final = 0.25
_PAUSE_SECONDS: Final = 10.0
_FULLEST: Final = 0.75
"""Of the most jobs that lately ran together: with fewer, a worker does not show what it can do."""

_LOOPS: Final = 15
"""That decide, of each kind."""


@dataclass(slots=True)
class _Sample:
    """A stretch of work: seconds, tokens made, tokens of prompts computed beside them, jobs at most."""

    seconds: float = 0.0
    made: int = 0
    prompts: int = 0
    jobs: int = 0


class Pace:
    """Tokens a second over the last half minute in which there was work.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._samples: collections.deque[_Sample] = collections.deque()
        self._seconds = 0.0
        self._counted_at: float | None = None

    def begin(self) -> None:
        """Work begins after a rest: the time before is nobody's."""
        self._counted_at = self._clock()

    def count(self, tokens: int, prompt_tokens: int = 0, jobs: int = 1) -> None:
        """Note tokens that were just made, and of prompts computed, for so many jobs.

        The time since the last ones is theirs, a pause is nobody's.
        """
        now = self._clock()
        if self._counted_at is not None and now - self._counted_at < _PAUSE_SECONDS:
            if not self._samples or self._samples[-1].seconds >= _SAMPLE_SECONDS:
                self._samples.append(_Sample())
            last = self._samples[-1]
            last.seconds += now - self._counted_at
            last.made += tokens
            last.prompts += prompt_tokens
            last.jobs = max(last.jobs, jobs)
            self._seconds += now - self._counted_at
            while self._seconds > _WINDOW_SECONDS:
                self._seconds -= self._samples.popleft().seconds
        self._counted_at = now

    @property
    def tokens_per_second(self) -> float:
        """The rate of tokens made; what it last was while nothing is made; 0 before anything was."""
        return self._rate(self._samples, lambda sample: sample.made)

    @property
    def work_tokens_per_second(self) -> float:
        """The rate of prompt and completion tokens while as many jobs ran as lately ever did.

        A worker with one job makes a fraction of what it makes with thirty, and those who wait, wait for
        one that is as full as it gets.
        """
        fullest = _FULLEST * max((sample.jobs for sample in self._samples), default=0)
        full = [sample for sample in self._samples if sample.jobs >= fullest]
        return self._rate(full, lambda sample: sample.made + sample.prompts)

    @staticmethod
    def _rate(samples: Collection[_Sample], tokens: Callable[[_Sample], int]) -> float:
        seconds = sum(sample.seconds for sample in samples)
        return sum(map(tokens, samples)) / seconds if seconds > 0 else 0.0


class Loops:
    """What the engine's loops take: the base of every promise.

    The middle of the last few decides: a first loop may compile kernels for seconds.
    """

    def __init__(self) -> None:
        self._steps: collections.deque[float] = collections.deque(maxlen=_LOOPS)
        self._prompts: collections.deque[tuple[float, int]] = collections.deque(maxlen=_LOOPS)

    def note(self, seconds: float, prompt_tokens: int) -> None:
        """One loop, in which so many tokens of prompts were computed beside the decode step."""
        if not prompt_tokens:
            self._steps.append(seconds)
        elif (beside := seconds - (statistics.median_low(self._steps) if self._steps else 0.0)) > 0:
            self._prompts.append((beside / prompt_tokens, prompt_tokens))

    @property
    def rates(self) -> Rates | None:
        """The last loops'; None before a decode step and a prompt were seen."""
        if not self._steps or not self._prompts:
            return None
        return Rates(statistics.median_low(self._steps), self._prompt_token_seconds)

    @property
    def _prompt_token_seconds(self) -> float:
        """The middle token's: a short prompt says little of a long one."""
        ordered = sorted(self._prompts)
        before = list(itertools.accumulate(tokens for _, tokens in ordered))
        return ordered[bisect.bisect_left(before, before[-1] / 2)][0]
