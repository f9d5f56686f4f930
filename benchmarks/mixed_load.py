"""A mixed workload, and what an answer in it is worth: short interactive jobs beside long batch ones.

Arrivals and lengths are a published trace's (:mod:`benchmarks.workload`), thinned and scaled down: what the user
says is an eighth of the trace's prompt, an answer half of the trace's. Where the trace's answer has over 256 tokens
(a third of its requests) a job is of class ``batch``, else ``interactive``. Each has one of four system prompts, of
300 to 600 tokens, before what its user says, and asks one of two models; every third one samples with a seed of
its own, the others are greedy.

An answer is good that meets its class's targets, fixed before anything was measured: an interactive one begins
within 2 s and is done 2 s and a tenth of a second for each of its tokens after it was asked, so that nobody who
reads along waits; a batch one is done when the run ends. Goodput counts the tokens of good answers, and of no other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.points import quantile
from benchmarks.sse_clients import Streamed
from benchmarks.workload import Arrival, requests

MODELS: Final = ("small", "large")
CLASSES: Final = ("interactive", "batch")
SYSTEM_TOKENS: Final = (300, 400, 500, 600)

FIRST_SECONDS: Final = 2.0
SECONDS_PER_TOKEN: Final = 0.1

_LONG_TOKENS: Final = 256
"""In the trace, of a batch job's answer, at least one more."""

_USER_SCALE: Final = 8
_ANSWER_SCALE: Final = 2
_LEAST_TOKENS: Final = 8
_MOST_USER_TOKENS: Final = 600
_SEEDED: Final = 3
_WORDS: Final = [
    "the",
    "tide",
    "comes",
    "in",
    "over",
    "the",
    "flats",
    "and",
    "takes",
    "what",
    "was",
    "left",
    "there",
    "shell",
    "by",
    "shell",
    "till",
    "it",
    "turns",
]


@dataclass(frozen=True, slots=True)
class Job:
    """One request."""

    at_seconds: float
    """When it is asked, from the beginning."""

    priority: str
    model: str
    """One of :data:`MODELS`."""

    system: str
    user: str
    max_tokens: int
    """What its answer has: the models never stop."""

    seed: int | None

    def body(self, name: str) -> dict[str, Any]:
        """The request to ``/v1/chat/completions``, to a server that calls the model by this name."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]
        sampling = {"temperature": 0} if self.seed is None else {"temperature": 0.8, "seed": self.seed}
        return {
            "model": name,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "priority": self.priority,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | sampling


def jobs(trace: Sequence[Arrival], seconds: float, per_second: float, seed: int = 1) -> list[Job]:
    """The workload of about so many seconds, at an arrival rate; the same for everyone.

    Args:
        trace: whole.
        seconds: for which jobs arrive.
        per_second: how many do.
        seed: of what the trace does not say.
    """
    dice = random.Random(seed)
    systems = [_text(dice, tokens) for tokens in SYSTEM_TOKENS]
    every = max(1, len(trace) // max(1, round(seconds * per_second)))
    return [
        Job(
            at_seconds=each.arrived_at,
            priority="batch" if each.answer_tokens > _LONG_TOKENS else "interactive",
            model=dice.choice(MODELS),
            system=dice.choice(systems),
            user=_text(dice, min(_MOST_USER_TOKENS, max(_LEAST_TOKENS, each.prompt_tokens // _USER_SCALE))),
            max_tokens=max(_LEAST_TOKENS, each.answer_tokens // _ANSWER_SCALE),
            seed=number if number % _SEEDED == 0 else None,
        )
        for number, each in enumerate(requests(trace, every, per_second, seed))
    ]


def _text(dice: random.Random, tokens: int) -> str:
    """So many bytes, which are tokens here, that have little in common with another text."""
    words: list[str] = []
    while sum(len(word) + 1 for word in words) < tokens:
        words.append(dice.choice(_WORDS))
    return " ".join(words)[:tokens].strip().ljust(tokens, ".")


def is_good(job: Job, answer: Streamed) -> bool:
    """Whether an answer met its class's targets. A batch job's is that it was answered: clients leave at the end."""
    if not answer.answered or answer.finish_reason != "length":
        return False
    if job.priority != "interactive":
        return True
    took = answer.ended_at - answer.asked_at
    return (
        answer.first_seconds <= FIRST_SECONDS and took <= FIRST_SECONDS + job.max_tokens * SECONDS_PER_TOKEN
    )


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What one server did for one class. Seconds are infinite where so few answers came that there are none."""

    jobs: int
    answered: int
    good: int
    good_tokens: int
    first_p50: float
    first_p99: float
    done_p50: float
    done_p99: float

    def shown(self, seconds: float) -> dict[str, Any]:
        """The figures as JSON has them: goodput in tokens a second of the run, None for what never came."""
        times = {
            f"{name}_s": round(value, 3) if math.isfinite(value) else None
            for name in ("first_p50", "first_p99", "done_p50", "done_p99")
            for value in (getattr(self, name),)
        }
        counted = {"jobs": self.jobs, "answered": self.answered, "good": self.good}
        return counted | {"goodput": round(self.good_tokens / seconds, 1)} | times


def figures(asked: Sequence[Job], answers: Sequence[Streamed]) -> dict[str, ClassFigures]:
    """By class; a job that was not answered counts as one that took for ever."""
    made = {}
    for name in CLASSES:
        pairs = [pair for pair in zip(asked, answers, strict=True) if pair[0].priority == name]
        good = [job for job, answer in pairs if is_good(job, answer)]
        first = [answer.first_seconds for _, answer in pairs]
        done = [answer.ended_at - answer.asked_at if answer.answered else math.inf for _, answer in pairs]
        made[name] = ClassFigures(
            jobs=len(pairs),
            answered=sum(answer.answered for _, answer in pairs),
            good=len(good),
            good_tokens=sum(job.max_tokens for job in good),
            first_p50=quantile(first, 0.50),
            first_p99=quantile(first, 0.99),
            done_p50=quantile(done, 0.50),
            done_p99=quantile(done, 0.99),
        )
    return made


def goodput(by_class: Mapping[str, ClassFigures], seconds: float) -> float:
    """Tokens of good answers a second, all classes together."""
    return sum(each.good_tokens for each in by_class.values()) / seconds


def ratio_to_peer(goodputs: Mapping[str, float]) -> float | None:
    """The goodput of tidegate over the best peer's; None where either was not measured, or no peer had any."""
    best = max((value for name, value in goodputs.items() if name != "tidegate"), default=0.0)
    return goodputs["tidegate"] / best if best > 0 and "tidegate" in goodputs else None
