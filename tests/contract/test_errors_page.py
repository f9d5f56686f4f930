"""docs/errors.md says what the table and the API say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from redis import Redis

from scheduler.errors import TABLE
from scheduler.settings import Settings
from tests.contract.error_makers import MAKERS, Scene, settled

PAGE = (Path(__file__).parents[2] / "docs/errors.md").read_text()
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE))


def test_every_code_has_its_section_in_the_tables_order() -> None:
    """None is left out, none is there that no client can meet."""
    assert list(SECTIONS) == sorted(TABLE, key=lambda code: TABLE[code].status)
    assert set(MAKERS) == set(TABLE)


@pytest.mark.parametrize("code", TABLE)
def test_a_section_says_what_the_row_says(code: str) -> None:
    """Its status, its type, and whether a retry can help, in its first line; then what a client does."""
    row = TABLE[code]
    retry = "retry: yes, after `Retry-After`" if row.retryable else "retry: no"
    assert SECTIONS[code].strip().splitlines()[0] == f"{row.status} · `{row.type}` · {retry}"
    assert "\n**Do:** " in SECTIONS[code]


@pytest.mark.parametrize("code", TABLE)
def test_an_example_is_what_the_api_answers(
    code: str, settings: Settings, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word; with the status and the headers of the row."""
    answer = MAKERS[code](Scene(settings, connection, monkeypatch))
    monkeypatch.undo()
    row = TABLE[code]
    assert answer.status_code == row.status, answer.text
    assert answer.get_json()["error"]["code"] == code
    assert ("Retry-After" in answer.headers) is row.retryable
    assert (answer.headers.get("x-should-retry") == "false") is not row.retryable
    (shown,) = re.findall(r"```json\n(.*?)```", SECTIONS[code], re.DOTALL)
    assert json.loads(settled(answer)) == json.loads(shown)
