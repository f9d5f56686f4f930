"""Whether Retry-After is true: ``python -m benchmarks.retry_after``.

A real server with one worker and a random-weight model, more clients than it can serve. Each posts a job over
HTTP; one that is refused waits for as many seconds as it is told, posts the same body once more, and then gives
up. Clients come in a crowd at first and at random from then on, faster than jobs are done, so that every promise
stands against newcomers. Every third sends the same body as others of its kind and says how often it has tried, as
OpenAI's clients do. Prints one JSON line last:

``admitted_first_retry``  of the clients that were refused, the share that was admitted when it came again
``median_over_needed``    told over truly needed seconds: the median over the clients that were refused
``eta_over_real``         ``queue.eta_seconds`` of an accepted job over the seconds until it started: the median
                          over jobs that waited a second or more; ``eta_error_p90_s`` is the ninth decile of how
                          far off it was

**Truly needed** is read from what happened, afterwards: every job's moments of entering and leaving the queue.
A client that was refused at some moment needed as many jobs to leave the queue as made room for it behind those
that waited then, and behind those that had been refused before it and were admitted since. The moment when so
many had left is when there truly was room for it; those who came after it do not count.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.arguments import parser
from benchmarks.random_models import write_random_llama
from benchmarks.stack import Stack, stack
from scheduler.record import JobRecord
from scheduler.request import read_request

MODEL: Final = "tiny"
BATCH: Final = 8
QUEUED: Final = 16
JOB_SECONDS: Final = 2.0
"""What a job of the middle length should take in a full batch: the lengths follow from the speed measured."""

LENGTHS: Final = (0.4, 0.7, 1.0, 1.3, 1.6)
LONGEST_TOKENS: Final = 3000
CROWD: Final = 60
OVERLOAD: Final = 1.2
"""Newcomers a second over jobs done a second."""

COMING_SECONDS: Final = 75.0
AGAIN_MOST_SECONDS: Final = 121.0
CLIENTS_MOST: Final = 2000
LOOK_SECONDS: Final = 0.25


@dataclass(slots=True)
class Told:
    """What one client was told: Unix seconds, and seconds."""

    refused_at: float | None = None
    retry_after: float = 0.0
    job: str | None = None
    eta_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Stay:
    """A job's time in the queue: Unix seconds."""

    entered: float
    left: float


def main() -> None:
    """Measure and print."""
    parser("retry_after", __doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_random_llama(Path(folder) / MODEL, never_stops=True)
        settings: dict[str, Any] = {"max_batch": BATCH, "max_queued_jobs": QUEUED, "memory_budget": 1 << 30}
        with stack({MODEL: model}, **settings) as running:
            tokens = _middle_tokens(running)
            done_per_second = BATCH / JOB_SECONDS
            clients = asyncio.run(_crowd(running, tokens, done_per_second * OVERLOAD))
            _look_until(lambda: running.lifecycle.queue.waiting()[0] == 0)
            stays = _stays(running, clients)
    print(json.dumps(_figures(clients, stays) | {"middle_tokens": tokens}))


def _middle_tokens(running: Stack) -> int:
    """The tokens that a job of the middle length makes in :data:`JOB_SECONDS` among a full batch."""
    tokens = 200
    for _ in range(3):  # the first one warms up; the longer an answer, the slower its tokens come
        made = int(tokens * JOB_SECONDS / _batch_seconds(running, tokens))
        tokens = max(20, min(made, int(LONGEST_TOKENS / max(LENGTHS))))
    return tokens


def _batch_seconds(running: Stack, tokens: int) -> float:
    """How long a full batch of equal jobs takes."""
    queue = running.lifecycle.queue
    ids = [running.lifecycle.submit(read_request(_body(str(n), tokens))).id for n in range(BATCH)]
    _look_until(lambda: all(rec.outcome for rec in queue.fetch_many(ids)))
    metas = [rec.meta for rec in queue.fetch_many(ids)]
    return max(meta.ended_at or 0.0 for meta in metas) - min(meta.granted_at or 0.0 for meta in metas)


def _look_until(done: Callable[[], bool]) -> None:
    """Look now and then, so that looking takes no time from what is measured.

    Raises:
        TimeoutError: it never was so.
    """
    until = time.monotonic() + AGAIN_MOST_SECONDS
    while not done():
        if time.monotonic() > until:
            raise TimeoutError("the worker did not get through")
        time.sleep(LOOK_SECONDS)


def _body(prompt: str, max_tokens: int) -> dict[str, object]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}


async def _crowd(running: Stack, tokens: int, per_second: float) -> list[Told]:
    """Let the clients come; what each was told."""
    draw = random.Random(4)
    told: list[Told] = []
    limits = httpx.Limits(max_connections=256)
    async with (
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=60.0, limits=limits) as http,
        asyncio.TaskGroup() as group,
    ):
        until = time.monotonic() + COMING_SECONDS
        while time.monotonic() < until and len(told) < CLIENTS_MOST:
            number = len(told)
            if number >= BATCH + QUEUED + CROWD:
                await asyncio.sleep(draw.expovariate(per_second))
            told.append(Told())
            length = int(tokens * draw.choice(LENGTHS))
            alike = number % 3 == 0
            body = _body("alike", tokens) if alike else _body(f"client {number}", length)
            group.create_task(_client(http, told[-1], body, says_count=alike))
    return told


async def _client(http: httpx.AsyncClient, told: Told, body: dict[str, object], *, says_count: bool) -> None:
    headers = [{"x-stainless-retry-count": str(count)} if says_count else {} for count in range(2)]
    answer = await http.post("/v1/jobs", json=body, headers=headers[0])
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        told.refused_at, told.retry_after = time.time(), float(answer.headers["Retry-After"])
        assert told.retry_after < AGAIN_MOST_SECONDS
        await asyncio.sleep(told.retry_after)
        answer = await http.post("/v1/jobs", json=body, headers=headers[1])
    if answer.status_code == httpx.codes.ACCEPTED:
        job = answer.json()
        told.job = job["id"]
        told.eta_seconds = (job["queue"] or {}).get("eta_seconds") or 0.0


def _stays(running: Stack, clients: Sequence[Told]) -> dict[str, Stay]:
    """When each accepted job entered the queue and left it."""
    records: list[JobRecord] = running.lifecycle.queue.fetch_many([each.job for each in clients if each.job])
    return {rec.id: Stay(rec.created_at, rec.meta.started_at or rec.created_at) for rec in records}


def _figures(clients: Sequence[Told], stays: dict[str, Stay]) -> dict[str, float | int]:
    refused = [each for each in clients if each.refused_at is not None]
    needs = [(each, need) for each in refused if (need := _needed_seconds(each, refused, stays)) is not None]
    ratios = [each.retry_after / need for each, need in needs]
    real = [(c.eta_seconds, stays[c.job].left - stays[c.job].entered) for c in clients if c.job in stays]
    waited = [(eta, seconds) for eta, seconds in real if seconds >= 1.0]
    off = sorted(abs(eta - seconds) for eta, seconds in waited)
    return {
        "admitted_first_retry": round(sum(each.job is not None for each in refused) / len(refused), 3),
        "median_over_needed": round(statistics.median(ratios), 3),
        "refused": len(refused),
        "told_p50_s": statistics.median(each.retry_after for each in refused),
        "told_max_s": max(each.retry_after for each in refused),
        "needed_p50_s": round(statistics.median(need for _, need in needs), 2),
        "accepted": len(stays),
        "eta_over_real": round(statistics.median(eta / seconds for eta, seconds in waited), 3),
        "eta_error_p90_s": round(off[int(0.9 * len(off))], 2),
        "wait_p50_s": round(statistics.median(seconds for _, seconds in waited), 2),
    }


def _needed_seconds(client: Told, refused: Sequence[Told], stays: dict[str, Stay]) -> float | None:
    """Seconds from a refusal until there truly was room, as the module says; None where that was never seen."""
    at = client.refused_at
    assert at is not None
    waited = sum(stay.entered <= at < stay.left for stay in stays.values())
    before = sum(
        other.refused_at is not None
        and other.refused_at < at
        and other.job in stays
        and stays[other.job].entered > at
        for other in refused
    )
    leaves = sorted(stay.left for stay in stays.values())
    index = bisect.bisect_right(leaves, at) + max(1, waited + before + 1 - QUEUED) - 1
    return leaves[index] - at if index < len(leaves) else None


if __name__ == "__main__":
    main()
