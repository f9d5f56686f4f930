"""The same jobs, run again and again on one worker after another, and what became of them each time."""

from __future__ import annotations

import json
import random
import string
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.lone_worker import LoneWorker, Place
from scheduler.events import Kind, read_events
from scheduler.foresight import Row
from scheduler.job import TERMINAL
from scheduler.record import JobRecord
from scheduler.request import read_request

MODEL: Final = "random"
_LAST_SECONDS: Final = 3.0
"""How long a worker may take to say what it counted."""

_LOOK_SECONDS: Final = 0.05
_WARM_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the jobs of one run."""

    texts: tuple[str | None, ...]
    broken_logs: int
    seconds: float
    counters: Counter[str]
    """What the worker counted."""
    errors: Counter[str]
    """Codes of the jobs that failed."""

    @property
    def completed(self) -> int:
        """Jobs that brought their whole text."""
        return sum(text is not None for text in self.texts)

    def equal(self, other: Run) -> int:
        """Texts that are the other run's."""
        return sum(one is not None and one == two for one, two in zip(self.texts, other.texts, strict=True))


@dataclass(frozen=True, slots=True)
class SameJobs:
    """Greedy jobs of one length, and where they run.

    Args:
        place: it serves :data:`MODEL`, which never stops by itself, a token a byte.
        jobs: how many.
        prompt_tokens, max_tokens: of each.
        seconds: that a run may take; what has not ended by then is not completed.
    """

    place: Place
    jobs: int
    prompt_tokens: int
    max_tokens: int
    seconds: float

    @property
    def rows(self) -> list[Row]:
        """The jobs as a footprint counts them."""
        return [Row(self.prompt_tokens, self.max_tokens)] * self.jobs

    def warm(self, worker: LoneWorker) -> None:
        """One job with a short prompt, so that an engine has touched all its weights."""
        verbs, last = self.place.lifecycle, time.monotonic() + self.seconds
        job_id = verbs.submit(read_request(self._body(0, _WARM_TOKENS))).id
        while verbs.get(job_id).outcome is None and time.monotonic() < last:
            time.sleep(_LOOK_SECONDS)
        self._counted(worker, Counter(), 1)

    def run(self, name: str, worker: LoneWorker, meanwhile: Callable[[int], None] = lambda _: None) -> Run:
        """Submit every job and wait for all.

        Args:
            name: for the line that tells of it.
            worker: that runs them.
            meanwhile: called again and again with how many jobs have some of their answer.
        """
        verbs = self.place.lifecycle
        before = worker.counters
        began = time.monotonic()
        ids = [verbs.submit(read_request(self._body(at, self.prompt_tokens))).id for at in range(self.jobs)]
        while True:
            records = [verbs.get(job_id) for job_id in ids]
            seconds = time.monotonic() - began
            if all(rec.outcome for rec in records) or seconds > self.seconds or not worker.child.alive:
                break
            meanwhile(sum(rec.meta.output_seen or rec.outcome is not None for rec in records))
            time.sleep(_LOOK_SECONDS)
        run = Run(
            tuple(map(self._text, records)),
            sum(self._broken(rec) for rec in records),
            seconds,
            self._counted(worker, before, sum(rec.outcome is not None for rec in records)),
            Counter(rec.outcome.error["code"] for rec in records if rec.outcome and rec.outcome.error),
        )
        for rec in records:
            verbs.cancel(rec.id)
        prompts, answers = self.jobs * self.prompt_tokens, run.completed * self.max_tokens
        line = {
            "run": name,
            "completed": run.completed,
            "jobs": self.jobs,
            "errors": run.errors,
            "broken_logs": run.broken_logs,
            **run.counters,
            "seconds": round(seconds, 2),
            "tokens_per_second": round((prompts + answers) / seconds, 1),
            "answer_tokens_per_second": round(answers / seconds, 1),
        }
        print(json.dumps(line), flush=True)
        return run

    def _body(self, at: int, prompt_tokens: int) -> dict[str, Any]:
        letters = random.Random(at).choices(string.ascii_letters + " ", k=prompt_tokens)
        return {
            "model": MODEL,
            "prompt": "".join(letters),
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }

    def _text(self, rec: JobRecord) -> str | None:
        """A job's text, where it has all its tokens: the model never stops by itself."""
        result = rec.outcome.result if rec.outcome else None
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.max_tokens}
        whole = result is not None and usage.items() <= result["usage"].items()
        return result["text"] if whole and result is not None else None

    def _broken(self, rec: JobRecord) -> bool:
        """Whether a job that ended has a log that is not its result's, piece by piece."""
        events = read_events(self.place.connection, rec.id)
        if rec.outcome is None or rec.outcome.result is None:
            return False
        deltas = [event.data for event in events if event.kind is Kind.DELTA]
        tokens = sum(len(delta.get("tokens", ())) for delta in deltas)
        return (
            [event.number for event in events] != list(range(1, len(events) + 1))
            or [event.ends for event in events] != [False] * (len(events) - 1) + [True]
            or "".join(delta.get("text", "") for delta in deltas) != rec.outcome.result["text"]
            or tokens != rec.outcome.result["usage"]["completion_tokens"]
        )

    @staticmethod
    def _counted(worker: LoneWorker, before: Counter[str], ended: int) -> Counter[str]:
        """What the worker counted in a run, once it has told of every job that ended."""
        last = time.monotonic() + _LAST_SECONDS
        while True:
            counted = Counter({name: count - before[name] for name, count in worker.counters.items()})
            done = sum(counted[state.value] for state in TERMINAL)
            if done >= ended or time.monotonic() > last:
                return +counted
            time.sleep(_LOOK_SECONDS)
