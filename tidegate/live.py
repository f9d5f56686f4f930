"""A picture in the terminal that is drawn again and again, until somebody has seen enough."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

from tidegate.interruption import Interrupted, Interruption
from tidegate.keyboard import Keyboard

Frame = Callable[[int, int], RenderableType]
"""Makes a picture for so many columns and lines."""

ENOUGH = frozenset("qQ")


def show(
    console: Console,
    frame: Frame,
    seconds: float,
    keyboard: Keyboard | None = None,
    interruption: Interruption | None = None,
) -> int:
    """Draw on the whole screen, once every so many seconds, until `q` or Ctrl-C; the exit status.

    What was on the screen before is there again afterwards, whatever ends this.
    """
    with interruption or Interruption():
        try:
            with (
                keyboard or Keyboard() as keys,
                Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as shown,
            ):
                while True:
                    began = time.monotonic()
                    width, height = console.size
                    shown.update(frame(width, height), refresh=True)
                    if ENOUGH & set(keys.pressed(max(0.0, began + seconds - time.monotonic()))):
                        return 0
        except Interrupted as interrupted:
            return 0 if interrupted.args == ("SIGINT",) else interrupted.exit_status


def repeat(once: Callable[[], None], seconds: float) -> int:
    """The same where there is no screen: do something every so many seconds, until Ctrl-C; the exit status."""
    with Interruption():
        try:
            while True:
                began = time.monotonic()
                once()
                time.sleep(max(0.0, began + seconds - time.monotonic()))
        except Interrupted as interrupted:
            return 0 if interrupted.args == ("SIGINT",) else interrupted.exit_status
