"""``make fuzz``: every target for a while, with fresh inputs; one JSON line of what was run and what failed.

Hypothesis draws the changes, and what fails is made small and kept in the target's folder of the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import structlog
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.every import TARGETS
from tests.fuzz.mutation import mutated
from tests.fuzz.shrinking import smallest
from tests.fuzz.target import Target

ROUND_EXAMPLES = 100
DRAWN_TOGETHER = 20
"""Inputs that one draw makes where they are cheap: a draw takes longer than ten of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 where anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=main.__doc__)
    parser.add_argument("targets", nargs="*", help="those to run; all where none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the draws; another each time where none is given"
    )
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.targets) - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}")
    targets = [target for target in TARGETS if target.name in chosen.targets or not chosen.targets]
    begin = time.time_ns() & 0xFFFFFFFF if chosen.seed is None else chosen.seed
    told = {target.name: run(target, chosen.seconds / len(targets), begin) for target in targets}
    sys.stdout.write(json.dumps(told) + "\n")
    return int(any(each["failures"] for each in told.values()))


def run(target: Target, seconds: float, begin: int) -> dict[str, Any]:
    """One target for so long; how many inputs it had, how many are kept, and how many failed."""
    count, failures = 0, 0
    seeds = [*target.seeds(), *target.kept()]
    with target.open() as one:
        for data in seeds:
            count += 1
            failures += _failed(target, one, data)
        until, turn = time.monotonic() + seconds, begin
        while time.monotonic() < until:
            counted, bad = _round(target, one, seeds, turn, until)
            count, failures, turn = count + counted, failures + bad, turn + 1
    return {"inputs": count, "corpus": len(target.kept()), "failures": failures}


def _tell(target: Target, error: Exception, data: bytes) -> None:
    said = f"{target.name}: {type(error).__name__}: {str(error)[:300]}: {data[:200]!r}"
    sys.stderr.write(said + "\n")


def _failed(target: Target, one: Callable[[bytes], None], data: bytes) -> int:
    try:
        one(data)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what we look for)
        _tell(target, error, data)
        return 1
    return 0


def _round(
    target: Target, one: Callable[[bytes], None], seeds: Sequence[bytes], turn: int, until: float
) -> tuple[int, int]:
    """So many draws; how many inputs they were, and whether one failed, which is then kept."""
    count = 0
    worst: list[bytes] = []

    @seed(turn)
    @settings(
        max_examples=ROUND_EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a smaller draw makes no smaller input
    )
    @given(st.integers(0, 1 << 64))
    def each(draw: int) -> None:
        nonlocal count
        if time.monotonic() > until and not worst:
            return  # a round is not cut short, but says nothing more
        rng = Random(draw)
        for _ in range(DRAWN_TOGETHER if target.pure else 1):
            data = mutated(rng, seeds)
            count += 1
            try:
                one(data)
            except Exception:
                worst.append(data)
                raise

    try:
        each()
    except Exception as error:
        if not worst:
            raise
        data = smallest(worst[0], one)
        target.folder.mkdir(parents=True, exist_ok=True)
        (target.folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        _tell(target, error, data)
        return count, 1
    return count, 0


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main())
