"""Advice to type this command, as it can be typed here: its script need not be on the path."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path


def as_typed(words: str) -> str:
    """The words with each "`tidegate" that begins a command in the form that a shell here would find."""
    return re.sub("`tidegate(?= )", lambda _: f"`{name()}", words)


def name() -> str:
    """What stands for `tidegate`: itself, where that leads to this very command, or the path of its script."""
    script = Path(sys.executable).with_name("tidegate")
    if not os.access(script, os.X_OK):
        return f"{shlex.quote(sys.executable)} -m tidegate"
    found = shutil.which("tidegate")
    if found is not None and Path(found).samefile(script):
        return "tidegate"
    with suppress(OSError, ValueError):  # the folder that this runs in may be gone, or be another
        script = script.relative_to(Path.cwd())
    return shlex.quote(str(script))
