"""What of an engine's last words a log has."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.last_words import TROUBLES
from tests.unit.test_hearing import HELD, House
from workers.classifier import OTHER, classify_text
from workers.environment import engine_environment
from workers.unsaid import loggable

PROMPT: Final = "tell me of zanzibar"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"ValueError: {PROMPT}", "ValueError"),
        (f"jinja2.exceptions.TemplateError: {PROMPT}", "jinja2.exceptions.TemplateError"),
        (PROMPT, "(19 characters, not shown)"),
        (f'  File "/x/engine.py", line 12, in _step {PROMPT}', 'File "/x/engine.py", line 12, in _step'),
        (f"thread '<unnamed>' panicked at src/lib.rs:7:9: {PROMPT}", "panicked at src/lib.rs:7:9"),
        (
            f"RuntimeError: [malloc] Unable to allocate 5 bytes {PROMPT}",
            "RuntimeError: [malloc] Unable to allocate",
        ),
        (f"what(): {PROMPT} Insufficient Memory {PROMPT}", "Insufficient Memory"),
        ("", "(0 characters, not shown)"),
    ],
)
def test_a_line_is_told_by_its_kind_its_place_and_what_is_known(line: str, said: str) -> None:
    """And never by what it was about."""
    assert loggable(line) == said


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1))
def test_text_that_nobody_knows_is_not_shown(text: str) -> None:
    """Whatever it is: a word of a prompt reaches no log."""
    assert f"zan{text}zibar" not in loggable(f"ValueError: zan{text}zibar")


def test_every_failure_that_is_known_can_still_be_told() -> None:
    """What is left of MLX's words says the same to the table as the words did."""
    known = [end.words for end in TROUBLES.values() if classify_text(end.words) is not OTHER]
    assert known
    assert [classify_text(loggable(words)) for words in known] == [classify_text(words) for words in known]


def test_an_engine_is_told_no_password_and_no_key() -> None:
    """By its environment, which others of the same user can read; what it needs comes over its pipe."""
    inherited = {
        "TIDEGATE_REDIS_URL": "redis://:pw@h",
        "TIDEGATE_API_KEY": "k",
        "tidegate_webhook_secret": "s",
        "RQ_REDIS_URL": "redis://:pw@h",
        "HF_HOME": "/models",
    }
    kept = engine_environment(inherited, preload=False)
    assert {name for name in kept if name in inherited} == {"HF_HOME"}


def test_a_worker_logs_an_exceptions_kind_and_not_its_text() -> None:
    """Of what an engine raised, too."""
    with capture_logs() as logged:
        house = House()
        house.desk.running = {"job_a/1": HELD}
        house.supervisor.says = [{"kind": "raised", "keys": ["job_a/1"], "text": f"KeyError: {PROMPT!r}"}]
        house.hearing.hear(more=True)
    assert PROMPT not in str(logged)
    assert [line["text"] for line in logged if "text" in line] == ["KeyError"]
