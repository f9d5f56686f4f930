"""The data folder is its owner's alone, whoever makes it first."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.settings import load
from tests.cards import PLAIN
from tidegate import programs
from tidegate.processes import Processes, rotated
from tidegate.terminal import Terminal
from tidegate.up import make_sample
from workers.kept_cards import keep_card


def _log(data: Path) -> None:
    rotated(data / "logs" / "a.log")


def _card(data: Path) -> None:
    keep_card(replace(PLAIN, fingerprint="ab"), data / "cards")


def _sample(data: Path) -> None:
    settings, folder = programs.with_sample(load(data_dir=data))
    make_sample(settings, folder, Processes(data / "logs"), Terminal())
    assert folder.parent.is_dir()


@pytest.mark.parametrize("make", [_log, _card, _sample])
def test_whoever_makes_it_first(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log, a model's card or the sample model may come before the embedded server, whatever the umask allows."""
    monkeypatch.setattr(Processes, "run", lambda *_: None)
    before = os.umask(0)
    try:
        make(tmp_path / "far" / "data")
    finally:
        os.umask(before)
    assert (tmp_path / "far" / "data").stat().st_mode & 0o777 == 0o700
