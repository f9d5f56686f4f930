"""Settings from a file: what is read of it, and that nobody else may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.errors import SettingsInvalid
from tidegate.command import main
from tidegate.settings_file import read_lines, read_settings_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One with a password in it."""
    made = tmp_path / "tide gate.env"
    made.touch(mode=0o600)
    made.write_text("TIDEGATE_REDIS_URL=redis://:hunter2@queue:6379/0\nTIDEGATE_PORT=8411\n")
    return made


def test_lines_are_read_as_shells_and_systemd_write_them() -> None:
    """Comments, empty lines, `export` and quotes; what stands in a value stays as it is."""
    said = """
    # a comment
    export TIDEGATE_MODELS = "a=/models/a b, c/d"
    TIDEGATE_API_KEY='tg_#1'
    HF_TOKEN=a=b "c"
    EMPTY=
    ONE="
    """
    assert read_lines(said) == {
        "TIDEGATE_MODELS": "a=/models/a b, c/d",
        "TIDEGATE_API_KEY": "tg_#1",
        "HF_TOKEN": 'a=b "c"',
        "EMPTY": "",
        "ONE": '"',
    }


@pytest.mark.parametrize("line", ["hunter2", "1A=hunter2", "A-B=hunter2", "=hunter2", "A=hunter2\0"])
def test_a_line_that_is_none_is_named_by_its_number(line: str) -> None:
    """And by nothing that is in it: it may be a password."""
    with pytest.raises(ValueError, match=r"^line 2 is not NAME=VALUE$"):
        read_lines(f"A=1\n{line}\n")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    """With what to do."""
    file.chmod(mode)
    with pytest.raises(SettingsInvalid, match=r"others may read or change .*: chmod 600 it$"):
        read_settings_file(file)


def test_a_file_that_cannot_be_read_is_named(file: Path, tmp_path: Path) -> None:
    """One that is not there, a folder, too large a one, one of no text; never with what is in it."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SettingsInvalid, match=f"{path}"):
            read_settings_file(path)
    file.write_bytes(b"A=\xff\n")
    with pytest.raises(SettingsInvalid, match=r"it is not UTF-8$"):
        read_settings_file(file)
    file.write_text("A=" + "x" * (1 << 16))
    with pytest.raises(SettingsInvalid, match="is larger than 65,536 bytes"):
        read_settings_file(file)


def test_another_users_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's may read all: so may whoever it gave it to."""
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(SettingsInvalid, match="belongs to another user"):
        read_settings_file(file)


def test_the_command_takes_its_settings_from_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set already wins; an empty variable is none."""
    for name, value in (("TIDEGATE_PORT", ""), ("TIDEGATE_REDIS_URL", "redis://127.0.0.1:1/0")):
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["--settings", str(file), "models"])
    assert os.environ["TIDEGATE_REDIS_URL"] == "redis://127.0.0.1:1/0"
    assert result.exit_code == 1
    assert "nothing answers at http://127.0.0.1:8411 " in result.output


def test_the_option_belongs_before_the_command() -> None:
    """Behind it, that is said."""
    result = CliRunner().invoke(main, ["models", "--settings", "x"])
    assert "--settings goes before the command: " in result.output
    assert "--settings FILE models" in result.output
