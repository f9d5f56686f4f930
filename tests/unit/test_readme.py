"""The README says what the code does."""

import json
import re
import shlex
from pathlib import Path

import pytest

from scheduler.errors import TABLE
from scheduler.request import read_request
from tests.made_parts import PARTS, README, renewed
from tidegate.command import main

TEXT = README.read_text()


@pytest.mark.parametrize("page", PARTS, ids=lambda page: page.name)
def test_what_is_made_from_the_code_is_up_to_date(page: Path) -> None:
    """`make readme` renews it."""
    assert renewed(page) == page.read_text()


@pytest.mark.parametrize("code", TABLE)
def test_every_error_is_explained(code: str) -> None:
    """With its status, and whether trying again can help."""
    row = TABLE[code]
    assert f"| `{code}` | {row.status} | {'yes' if row.retryable else 'no'} |" in TEXT


@pytest.mark.parametrize("command", main.commands)
def test_every_command_is_mentioned(command: str) -> None:
    """What `tidegate --help` lists is in the README."""
    assert f"tidegate {command}" in TEXT


def test_requests_shown_are_requests() -> None:
    """Every body in a curl to /v1/jobs is one that the API takes."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)).replace("\\\n", " ")
    calls = [shlex.split(line) for line in shell.splitlines() if "curl" in line and "/v1/jobs " in line + " "]
    bodies = [words[words.index("-d") + 1] for words in calls if "-d" in words]
    assert len(bodies) >= 2
    for body in bodies:
        read_request(json.loads(body))
