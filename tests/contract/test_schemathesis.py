"""Schemathesis over the OpenAPI document: every check, every route that the document has, chains of calls too.

A few cases of each kind in an ordinary run; `make contract` draws thousands.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.conftest import MODEL
from tests.contract import drawn
from tests.contract.served import serve
from tests.keys import make_key
from tests.pretend_worker import PretendWorker

ENOUGH = 8
"""Cases from which on every operation succeeds at least once."""

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", ENOUGH))
"""Cases for each operation in each of the phases that draw; two hundred make thousands of calls."""

SECONDS = 240 + 12 * EXAMPLES

MANY = 10**8
"""Tokens a minute: more than all calls take."""

CONFIG = """
hooks = "tests.contract.drawn"
request-timeout = 30
max-stream-events = 10000  # whole streams; 20 of each otherwise
continue-on-failure = true
seed = 7

[output.sanitization]
enabled = false

[cache]
enabled = false

[generation]
max-examples = {examples}
allow-x00 = false  # in JSON, too, a NUL is refused wherever it stands
database = "none"

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "413", "422", "429", "503", "504"]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "413", "415", "422", "429", "503"]

[[operations]]  # what OpenAI's clients may say and is not to be had here is refused by its name
include-tag = "openai"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "413", "422", "429", "503", "504"]

[[operations]]  # it goes on for as long as its client stays
include-path = "/v1/tide/stream"
max-stream-events = 1

[[operations]]  # a number past the newest event is well formed, and refused
include-path = "/v1/jobs/{{job_id}}/stream"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "503"]

[[operations]]  # so is a job that still waits or runs; whether it does is by the worker's pace
include-path = "/v1/jobs/{{job_id}}/retry"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "413", "422", "429", "503", "504"]
"""


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize(
    "phases", ["examples,coverage,fuzzing,stateful", "fuzzing,stateful"], ids=["open", "keys"]
)
def test_every_answer_is_as_the_document_says(
    valkey_url: str, tmp_path: Path, worker: PretendWorker, connection: Redis, phases: str
) -> None:
    """No 5xx that the contract does not name, no answer outside its schema, nothing taken that it does not allow.

    Without API keys; and with one, which is needed everywhere, and whose quota is told.
    """
    worker.report(lease_seconds=SECONDS * 2)
    config, calls = tmp_path / "schemathesis.toml", tmp_path / "calls"
    config.write_text(CONFIG.format(examples=EXAMPLES))
    token = "" if "coverage" in phases else make_key(connection, tokens_per_minute=MANY)[0]
    sent = ("--header", f"Authorization: Bearer {token}") if token else ()
    with serve(valkey_url, tmp_path) as url, worker.answering():
        document = httpx.get(f"{url}/openapi.json").json()
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
                *("run", f"{url}/openapi.json", "--checks", "all", "--phases", phases, "--no-color", *sent),
            ],
            env=os.environ
            | {drawn.MODEL: MODEL, drawn.CALLS: str(calls), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=tmp_path,
            check=False,
        )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    print(ran.stdout.partition(" SUMMARY ")[2])  # noqa: T201 (how many there were, where `make contract` shows it)
    assert document["security"] == ([{"key": []}] if token else [{"key": []}, {}])
    if not token and EXAMPLES >= ENOUGH:
        assert unanswered(document, calls.read_text()) == [
            "GET /openapi.json"
        ]  # its own source it does not ask for


def unanswered(document: dict[str, Any], calls: str) -> list[str]:
    """The operations that were not once called with success, so that little is known of them."""
    statuses: dict[str, set[str]] = defaultdict(set)
    for method, path, status, *_ in map(str.split, calls.splitlines()):
        statuses[f"{method} {path}"].add(status)
    every = [f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item]
    return [name for name in every if not any(status < "300" for status in statuses[name])]
