"""Stops what a killed `tidegate up` would leave running.

`python -m tidegate.warden` is told on its standard input whom to watch, ``+PID`` to begin and ``-PID``
to end, each PID the leader of a process group. The end of input means that its parent is gone, however
it went: what is still watched is stopped, last started first.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from functools import partial
from typing import Final

from tidegate.groups import ask_leader, group_lives, kill_group, wait_while
from tidegate.interruption import SIGNALS

GRACE_SECONDS: Final = 10.0


def watched_at_the_end(lines: Iterable[str]) -> list[int]:
    """The groups begun and not ended once the lines stop coming."""
    watched: list[int] = []
    for line in lines:
        pid = int(line[1:])
        if line[0] == "+":
            watched.append(pid)
        else:
            watched.remove(pid)
    return watched


def main() -> None:
    """Watch until the parent is gone."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    for pid in reversed(watched_at_the_end(sys.stdin)):
        ask_leader(pid)
        wait_while(partial(group_lives, pid), GRACE_SECONDS)
        kill_group(pid)


if __name__ == "__main__":
    main()
