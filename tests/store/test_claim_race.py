"""Real processes that claim from one server, and die at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from redis import Redis

ROOT = Path(__file__).parents[2]
RACE = """
import dataclasses, json, sys
from benchmarks.claim_race import race
print(json.dumps(dataclasses.asdict(race(sys.argv[1], 120, 4, processes=6))))
"""


def test_nothing_is_claimed_twice_or_lost_though_workers_are_killed(
    connection: Redis, valkey_url: str
) -> None:
    """Six processes, of which two die between claim and end, and two at any moment: every job ends once, and one
    attempt at a time held it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    command = (sys.executable, "-c", RACE, valkey_url)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["claimed_twice"], found["lost"], found["left"]) == (0, 0, 0)
    assert found["killed"] >= 2
    assert found["recovered"] >= 1
    assert found["claims"] >= 120
