"""A file of settings, for processes that no shell starts: ``NAME=VALUE`` lines, which nobody but their owner may read.

A launchd plist is no place for a password: others may read it, and ``launchctl print`` shows what it sets.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from scheduler.errors import SettingsInvalid

_LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_MOST_BYTES: Final = 1 << 16


def read_settings_file(path: Path) -> dict[str, str]:
    """The variables in it. Empty lines and those that begin with ``#`` are none; a value may be in quotes.

    Raises:
        SettingsInvalid: it cannot be read, others may read or change it, or a line is none; no value is in the message.
    """
    try:
        with path.open("rb") as file:
            _insist_on_privacy(path, os.fstat(file.fileno()))
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SettingsInvalid(f"--settings: {path} cannot be read: {error.strerror}") from None
    if len(text) > _MOST_BYTES:
        raise SettingsInvalid(f"--settings: {path} is larger than {_MOST_BYTES:,} bytes")
    try:
        return read_lines(text.decode())
    except ValueError as error:
        raise SettingsInvalid(f"--settings: {path}: {_reason(error)}") from None


def read_lines(text: str) -> dict[str, str]:
    """The variables of a text.

    Raises:
        ValueError: a line is none; the message has its number, and nothing of it.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if (said := line.strip()) and not said.startswith("#"):
            match = _LINE.fullmatch(said)
            if match is None or "\0" in said:
                raise ValueError(f"line {number} is not NAME=VALUE")
            found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _insist_on_privacy(path: Path, seen: os.stat_result) -> None:
    if seen.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsInvalid(f"--settings: others may read or change {path}: chmod 600 it")
    if seen.st_uid != os.geteuid():
        raise SettingsInvalid(f"--settings: {path} belongs to another user")


def _reason(error: ValueError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
