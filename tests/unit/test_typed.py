"""Advice names the command as it can be typed here."""

import sys
from pathlib import Path

import pytest

from tidegate.typed import as_typed


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A script beside this interpreter, in a folder that is not on the path."""
    made = tmp_path / "a venv" / "bin" / "tidegate"
    made.parent.mkdir(parents=True)
    made.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(made.with_name("python")))
    monkeypatch.setenv("PATH", str(tmp_path))
    return made


def test_a_command_on_the_path_is_named_as_it_is(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    """By a link too; not where another is meant by its name."""
    link = script.parents[2] / "tidegate"
    link.symlink_to(script)
    assert as_typed("see `tidegate up`") == "see `tidegate up`"
    link.unlink()
    link.touch(mode=0o755)
    assert as_typed("see `tidegate up`") == f"see `'{script}' up`"


def test_a_script_that_is_not_on_the_path_is_named_from_here(
    monkeypatch: pytest.MonkeyPatch, script: Path
) -> None:
    """Quoted for a shell; every advice of a line, and no other word."""
    monkeypatch.chdir(script.parents[1])
    said = as_typed("tidegate: `tidegate up`, `tidegate stream job_1`, `tidegate` or `tidegate-x`")
    assert said == "tidegate: `bin/tidegate up`, `bin/tidegate stream job_1`, `tidegate` or `tidegate-x`"


def test_advice_can_be_given_where_the_folder_is_gone(
    monkeypatch: pytest.MonkeyPatch, script: Path, tmp_path: Path
) -> None:
    """By the whole path."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert as_typed("`tidegate up`") == f"`'{script}' up`"


def test_without_a_script_the_module_is_run(script: Path) -> None:
    """By this interpreter."""
    script.unlink()
    assert as_typed("`tidegate up`") == f"`'{sys.executable}' -m tidegate up`"
