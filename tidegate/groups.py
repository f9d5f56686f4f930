"""Process groups: ask the leader to stop, then kill whatever of its group is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

POLL_SECONDS: Final = 0.02


def ask_leader(pid: int, signum: int = signal.SIGTERM) -> None:
    """Signal the leader alone: it stops its own children in its own order."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def kill_group(pid: int) -> None:
    """SIGKILL to everything in the group that ``pid`` leads or led."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def group_lives(pid: int) -> bool:
    """Whether any process, a zombie too, is in the group that ``pid`` leads or led."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def wait_while(busy: Callable[[], bool], seconds: float) -> bool:
    """Poll until ``busy`` is false; False if ``seconds`` went by first."""
    deadline = time.monotonic() + seconds
    while busy():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
