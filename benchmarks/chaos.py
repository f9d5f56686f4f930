"""Kill, stop and cut everything at once, and see that nothing is lost: ``python -m benchmarks.chaos``.

A real server with its append-only file, two APIs, three workers with engines on a small random model, and clients that
submit, stream, poll and cancel over HTTP. A storm drawn from a seed kills engines, workers, APIs (SIGKILL, SIGTERM) and
the server, stops them (workers and APIs for longer than a lease) and cuts their connections to the server; at every
transition of :data:`scheduler.job.TRANSITIONS` it strikes on purpose, before the server has the command that makes it,
and after it was done but before its answer came back. Whatever ended is started again. Then everything ends by itself,
and the audit (:mod:`benchmarks.audit`) compares each stream and result with the same job's where nothing happens.

Prints one JSON line last, with ``accepted``, ``lost``, ``doubled``, ``changed`` and ``leaked`` as the audit has them, and

``kills``   signals that ended a process; those that stopped one and what was cut are told on standard error

All but ``accepted`` and ``kills`` must be 0; the exit status is 1 where they are not, or where too little was killed.
On standard error: findings in words, what was struck, a line for each round. The model computes in float32 with MLX's own
matrix product, whose results do not hang on the company (see ``benchmarks.random_models``).
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from benchmarks.arguments import asked_storms
from benchmarks.audit import audit, figures, tell, wait_for_ends, wait_for_leases
from benchmarks.audit_host import Traces, processes_alive, temporary_files
from benchmarks.chaos_blows import Storm
from benchmarks.chaos_clients import Client, Errand, Witness
from benchmarks.chaos_stage import LEASE_SECONDS, SERVER, Stage, staged
from benchmarks.findings import Column, Finding
from benchmarks.following import Crowd
from benchmarks.random_models import write_random_llama
from benchmarks.store_proxy import Strike

MODEL: Final = "tide"
APIS: Final = 2
WORKERS: Final = 3
CLIENTS: Final = 10
SECONDS: Final = 20.0
LEAST_KILLS: Final = 20
QUIET_SECONDS: Final = 60.0
"""How long jobs may take to end after the storm before they count as lost."""

SEED: Final = 7


class Rages(Protocol):
    """What happens to a stage while clients use it."""

    def rage(self, seconds: float, least_kills: int) -> None:
        """Strike for so long."""

    def calm(self) -> None:
        """Let what still hangs go on."""


@dataclass(slots=True)
class Outcome:
    """What a round came to."""

    figures: dict[str, int]
    strikes: Sequence[Strike] = ()
    counts: Counter[str] = field(default_factory=Counter)


def main() -> None:
    """Measure and print."""
    asked = asked_storms("chaos", __doc__, SEED, SECONDS)
    total, kinds, struck = Counter[str](), Counter[str](), Counter[str]()
    for seed in range(asked.seed, asked.seed + asked.rounds):
        outcome = one_round(seed, asked.seconds, keep=asked.keep)
        total.update(outcome.figures)
        kinds += outcome.counts
        struck.update(f"{each.moment} {each.when}" for each in outcome.strikes if each.struck)
        print(f"seed {seed}: {json.dumps(outcome.figures)}", file=sys.stderr)
    print(f"done: {json.dumps(dict(sorted(kinds.items())))}", file=sys.stderr)
    print(f"struck: {json.dumps(dict(sorted(struck.items())))}", file=sys.stderr)
    print(json.dumps(dict(total)))
    sys.exit(failed(total, asked.rounds))


def failed(total: Counter[str], rounds: int) -> bool:
    """Whether something is wrong, or too little was killed to say."""
    return any(total[column.value] for column in Column) or total["kills"] < LEAST_KILLS * rounds


def one_round(
    seed: int,
    seconds: float,
    *,
    least_kills: int = LEAST_KILLS,
    workers: int = WORKERS,
    clients: int = CLIENTS,
    keep: Path | None = None,
) -> Outcome:
    """A storm on a stage of its own, and its audit.

    Args:
        seed: what is drawn from.
        seconds: how long the storm lasts.
        least_kills: for which it goes on, twice as long at most.
        workers: each with an engine.
        clients: at once.
        keep: where data and logs go where there are findings.
    """
    draw, began, took = random.Random(seed), time.monotonic(), dict[str, float]()

    def note(part: str) -> None:
        took[part] = round(time.monotonic() - began - sum(took.values()), 1)

    with tempfile.TemporaryDirectory(prefix="tg-") as name:
        folder = Path(name)
        model = write_random_llama(folder / "model", heads=4, kv_heads=4, max_position=2048)
        with staged(folder, {MODEL: model}, APIS, workers) as (stage, proxy):
            note("start")
            errands = make_errands(stage)
            note("undisturbed")
            storm = Storm(stage, proxy, draw)
            witness = live_through(stage, storm, errands, draw, seconds, least_kills, clients)
            note("storm")
            found = audited(stage, witness)
            note("audit")
        found += left_behind(stage)
        tell(found)
        if found and keep is not None:
            keep_folder(folder, keep / str(seed))
    told = figures(witness.accepted, found) | {"kills": stage.kills}
    missed = [f"{each.moment} {each.when}" for each in storm.strikes if not each.struck]
    print(
        f"seed {seed}: seconds {took}; tries again {witness.outages}; not struck: {missed}", file=sys.stderr
    )
    return Outcome(told, storm.strikes, stage.counts)


def left_behind(stage: Stage) -> list[Finding]:
    """What is left of a stage when everything has ended, the server too."""
    traces = Traces(stage.folder, stage.temporary, stage.pids)
    return [
        Finding(Column.LEAKED, subject, words)
        for rule in (processes_alive, temporary_files)
        for subject, words in rule(traces)
    ]


def keep_folder(folder: Path, place: Path) -> None:
    """Keep data and logs, to be looked into."""
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True)


def make_errands(stage: Stage) -> list[Errand]:
    """What clients ask, with the undisturbed answers; those that may end in an error of their own answer as without it."""
    draw = random.Random(3)
    bodies: list[dict[str, Any]] = []
    for number in range(8):
        prompt = f"{number}: " + "the tide comes in and " * draw.randint(1, 5)
        body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 40 + 30 * number}
        if number % 2:
            body |= {"temperature": 0.8, "seed": number, "repetition_penalty": 1.1}
        bodies.append(body | {"priority": ("interactive", "standard", "batch")[number % 3]})
    long = {
        "model": MODEL,
        "prompt": "for long",
        "temperature": 0.8,
        "seed": 1,
        "max_tokens": 600,
        "logit_bias": {"257": -100},
    }
    calm = Crowd(stage.urls[0], [*bodies, long], headers=stage.headers).stay()
    for story in calm:
        url = f"{stage.urls[0]}/v1/jobs/{story.sent[-1].data['id']}"
        httpx.delete(url, headers=stage.headers, trust_env=False).raise_for_status()
    errands = [Errand(body, story) for body, story in zip(bodies, calm, strict=False)]
    hasty = Errand(bodies[2] | {"queue_timeout": 0.001}, calm[2], frozenset({"queue_timeout"}))
    short = Errand(long | {"run_timeout": 0.05}, calm[-1], frozenset({"run_timeout"}))
    unsure = [Errand(bodies[3], calm[3], cancels=0.7), Errand(long, calm[-1], cancels=0.7)]
    errands += [hasty, hasty, short, short, *unsure, *unsure]
    return errands


def live_through(
    stage: Stage,
    storm: Rages,
    errands: Sequence[Errand],
    draw: random.Random,
    seconds: float,
    least_kills: int,
    clients: int,
) -> Witness:
    """The storm, and what its clients saw of it by the time that everything had ended."""
    witness, over, until = Witness(), threading.Event(), [float("inf")]
    threads = []
    for _ in range(clients):
        chance = random.Random(draw.random())
        client = Client(stage.urls, errands, witness, chance, over, lambda: until[0], headers=stage.headers)
        threads.append(threading.Thread(target=client.run, daemon=True))
    for thread in threads:
        thread.start()
    storm.rage(seconds, least_kills)
    over.set()
    storm.calm()
    until[0] = time.monotonic() + QUIET_SECONDS
    for thread in threads:
        thread.join()
    return witness


def audited(stage: Stage, witness: Witness) -> list[Finding]:
    """The findings, once the last job has ended, every process but the server's, and every lease."""
    with stage.connection as connection:
        stage.end("api")  # which do what they have read before
        wait_for_ends(connection, QUIET_SECONDS)
        stage.end()
        wait_for_leases(connection, 3 * LEASE_SECONDS)
        traces = Traces(stage.folder, None, stage.pids, [stage.pid(SERVER)])
        return witness.surprises + audit(connection, witness.accepted, traces)


if __name__ == "__main__":
    main()
