"""Many processes that claim and end jobs from one server, some of them killed; and the books of it.

Each job's log says who held it when; each process writes beside it what it was given and what it ended. From
both: no job was held by two attempts at once, none ended twice, none was left.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from benchmarks.claimer import ANN, BOB, CARD, MODEL, Claimer, put_in
from scheduler import fleet
from scheduler.events import Kind, read_events
from scheduler.job import PRIORITIES, State
from scheduler.queue import JOBS_KEY
from scheduler.recovery import recover

PROCESSES: Final = 32
MOST_SECONDS: Final = 40.0

_LEASE_SECONDS: Final = 3.0
_RECOVER_SECONDS: Final = 0.5
_FORK: Final = multiprocessing.get_context("fork")  # no MLX here, so that it is safe, and quick


@dataclass(frozen=True, slots=True)
class Race:
    """How it went; ``seconds`` from the first claim to the last. ``left`` jobs still wait, as the time was up."""

    claims: int
    seconds: float
    claimed_twice: int
    lost: int
    left: int
    killed: int
    recovered: int


def race(url: str, jobs: int, kills: int, processes: int = PROCESSES) -> Race:
    """Let processes claim and end jobs of two owners until none is left.

    Args:
        url: of the server; its database is emptied first and last.
        jobs: how many.
        kills: processes that are killed: one half by themselves between claim and end, the other at a moment of
            no one's choosing. Each is replaced.
        processes: how many run at a time.
    """
    own = Claimer(url, "auditor")
    own.connection.flushdb()
    put_in(own.queue, jobs, (ANN, BOB))
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        books = Path(folder)
        killed, recovered = _run(own, url, books, (jobs, kills, processes))
        found = _audit(own, books, killed, recovered)
    own.connection.flushdb()
    own.connection.close()
    return found


def _run(own: Claimer, url: str, books: Path, numbers: tuple[int, int, int]) -> tuple[int, int]:
    """Start, kill and replace the processes until all jobs ended or the time is up; how many killed, and recovered."""
    jobs, kills, processes = numbers
    draw = random.Random(4)
    started, shot, killed, recovered = 0, 0, 0, 0
    running: list[BaseProcess] = []

    def start(dies_at: int | None) -> None:
        nonlocal started
        name = f"w{started}"
        started += 1
        process = _FORK.Process(target=_work, args=(url, name, books / name, dies_at), daemon=True)
        process.start()
        running.append(process)

    for at in range(processes):
        start(draw.randint(1, 8) if at < kills // 2 else None)
    until, look_at, kill_at = time.monotonic() + MOST_SECONDS, 0.0, time.monotonic() + 0.5
    try:
        while time.monotonic() < until and not _all_ended(own, jobs):
            now = time.monotonic()
            if shot < kills - kills // 2 and now > kill_at:
                os.kill(draw.choice([each for each in running if each.is_alive()]).pid or 0, signal.SIGKILL)
                shot, kill_at = shot + 1, now + 0.1
            for each in _killed(running):
                running.remove(each)
                killed += 1
                start(None)
            if now > look_at:
                recovered += len(recover(own.queue, PRIORITIES, "auditor", ()))
                look_at = now + _RECOVER_SECONDS
            time.sleep(0.02)
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.join(5)
    return killed, recovered


def _killed(running: list[BaseProcess]) -> list[BaseProcess]:
    """Those that were killed; some may have seen that the time is up a moment before this process does."""
    for each in running:
        if each.exitcode not in {None, 0, -signal.SIGKILL}:
            raise RuntimeError(f"{each.name} ended by itself: {each.exitcode}")
    return [each for each in running if each.exitcode == -signal.SIGKILL]


def _all_ended(own: Claimer, jobs: int) -> bool:
    return int(own.connection.zcard("rq:finished:standard")) >= jobs


def _work(url: str, name: str, book: Path, dies_at: int | None) -> None:
    """Claim and end jobs, saying so before the one and behind the other, until killed or out of time."""
    claimer, parent = Claimer(url, name), os.getppid()
    until, report_at, claims = time.monotonic() + MOST_SECONDS, 0.0, 0
    with book.open("a", buffering=1) as says:
        while time.monotonic() < until and os.getppid() == parent:
            if time.monotonic() > report_at:
                fleet.report(claimer.connection, report_of(name), _LEASE_SECONDS)
                report_at = time.monotonic() + _LEASE_SECONDS / 6
            held = claimer.claim(fresh=False)
            if held is None:
                time.sleep(0.01)
                continue
            claims += 1
            says.write(f"claimed {held.rec.id} {held.lease.attempt} {time.time()}\n")
            if claims == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if claimer.end(held):
                says.write(f"ended {held.rec.id} {held.lease.attempt} {time.time()}\n")


def report_of(name: str) -> fleet.WorkerReport:
    """What a worker of the race says of itself."""
    budget = 1 << 30
    return fleet.WorkerReport(
        name=name,
        host="here",
        pid=os.getpid(),
        engine="ready",
        budget_bytes=budget,
        budget_source="set",
        limits_bytes={"set": budget},
        weights_bytes=CARD.weights_bytes,
        reserved_bytes=0,
        used_bytes=0,
        cache_bytes=0,
        headroom_bytes=budget - CARD.weights_bytes,
        chunk_tokens=512,
        served=(MODEL,),
        cards={MODEL: CARD.to_json()},
        queues=PRIORITIES,
    )


def _audit(own: Claimer, books: Path, killed: int, recovered: int) -> Race:
    """Compare the logs of the jobs with what the processes wrote."""
    said = Counter[tuple[str, str, int]]()
    moments: list[float] = []
    for book in books.iterdir():
        for line in book.read_text().splitlines():
            what, job_id, attempt, moment = line.split()
            said[what, job_id, int(attempt)] += 1
            if what == "claimed":
                moments.append(float(moment))
    ended = Counter(job_id for what, job_id, _ in said.elements() if what == "ended")
    twice = {job_id for (_, job_id, _), count in said.items() if count > 1}
    twice |= {job_id for job_id, count in ended.items() if count > 1}
    every: Any = own.connection.zrange(JOBS_KEY, 0, -1)
    ids = [entry.decode() for entry in every]
    started: set[tuple[str, int]] = set()
    for job_id in ids:
        log = read_events(own.connection, job_id)
        attempts = [event.data["attempt"] for event in log if event.kind is Kind.STARTED]
        started |= {(job_id, attempt) for attempt in attempts}
        if not _one_at_a_time([event.kind for event in log]) or attempts != sorted(set(attempts)):
            twice.add(job_id)
    # A process that was told of a claim which the log does not have held a job beside another.
    twice |= {job_id for _, job_id, attempt in said if (job_id, attempt) not in started}
    # What nobody came to do in time still waits in its list, or is put back from those that were stopped.
    for book in books.iterdir():
        fleet.withdraw(own.connection, book.name)
    recover(own.queue, PRIORITIES, "auditor", ())
    ended_ids = {rec.id for rec in own.queue.headings(ids) if rec.state is State.COMPLETED}
    lost = len(set(ids) - ended_ids - set(own.queue.rq_queue("standard").job_ids))
    left = len(ids) - len(ended_ids) - lost
    return Race(len(moments), max(moments) - min(moments), len(twice), lost, left, killed, recovered)


def _one_at_a_time(kinds: list[Kind]) -> bool:
    """Whether a log says that the job was held by one attempt at a time, and ended once."""
    held, ended = False, 0
    for kind in kinds:
        if (kind is Kind.STARTED and held) or (kind in {Kind.REQUEUED, Kind.COMPLETED} and not held):
            return False
        held = kind is Kind.STARTED
        ended += kind is Kind.COMPLETED
    return ended <= 1
