"""A benchmark's command line."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import pytest

from benchmarks.arguments import a_folder, count, parser, positive


@pytest.fixture
def options() -> ArgumentParser:
    made = parser("streams", "Measures.\n\n``lost``  none")
    made.add_argument("--streams", type=count, default=7, help="open at once")
    made.add_argument("--seconds", type=positive, default=0.5, help="long")
    made.add_argument("--sample", type=a_folder, help="where")
    return made


def test_help_is_the_benchmarks_own_text_and_names_defaults(options: ArgumentParser) -> None:
    said = options.format_help()
    assert said.startswith("usage: python -m benchmarks.streams ")
    assert "Measures.\n\n``lost``  none\n" in said
    assert "open at once (default: 7)" in said


def test_what_can_be_used_is_taken(options: ArgumentParser, tmp_path: Path) -> None:
    asked = options.parse_args(["--streams", "20", "--seconds", "1.5", "--sample", str(tmp_path)])
    assert (asked.streams, asked.seconds, asked.sample) == (20, 1.5, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        *(["--streams", text] for text in ("0", "-1", "1.5", "many", "")),
        *(["--seconds", text] for text in ("0", "-1", "nan", "inf", "soon")),
        ["--sample", "/no/such/folder"],
    ],
)
def test_what_cannot_is_refused(
    options: ArgumentParser, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options.parse_args(words)
    assert f"argument {words[0]}: {words[1]!r} is " in capsys.readouterr().err
