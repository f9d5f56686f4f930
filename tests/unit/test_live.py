"""A picture that is drawn again and again, on a terminal of the test's own."""

from __future__ import annotations

import os
import pty
import signal
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import pytest
from rich.console import Console
from rich.text import Text

from tests.waiting import wait_until
from tidegate.keyboard import Keyboard
from tidegate.live import repeat, show


@dataclass
class Screen:
    """A terminal: what a program writes to it, and somebody's hands on its keys."""

    hands: int
    stream: IO[str]
    seen: bytes = b""

    def read(self) -> None:
        """Look at it, until it is closed."""
        while True:
            try:
                piece = os.read(self.hands, 4096)
            except OSError:
                return
            if not piece:
                return
            self.seen += piece


@pytest.fixture
def screen() -> Iterator[Screen]:
    """One of 80 columns and 24 lines."""
    hands, program = pty.openpty()
    termios.tcsetwinsize(program, (24, 80))
    with os.fdopen(program, "r+b", buffering=0) as raw:
        stream = os.fdopen(os.dup(raw.fileno()), "w", encoding="utf-8")
        found = Screen(hands, stream)
        reader = threading.Thread(target=found.read, daemon=True)
        reader.start()
        yield found
        stream.close()
    reader.join(5)
    os.close(hands)


def shown_until(screen: Screen, act: object, seconds: float = 0.02) -> int:
    """Show frames; once there are three, do something."""
    console = Console(
        file=screen.stream, force_terminal=True, width=80, height=24, _environ={"TERM": "xterm"}
    )
    frames = iter(range(10_000))

    def frame(width: int, height: int) -> Text:
        number = next(frames)
        if number == 3:
            assert callable(act)
            act()
        assert number < 2000, "it did not end"
        return Text(f"frame {number} of {width} by {height}")

    return show(console, frame, seconds, Keyboard(screen.stream))


@pytest.mark.parametrize("key", [b"q", b"Q", b"xq"])
def test_q_ends_it(screen: Screen, key: bytes) -> None:
    """The terminal is as it was, lines and echo and what stood there."""
    before = termios.tcgetattr(screen.stream)
    assert shown_until(screen, lambda: os.write(screen.hands, key)) == 0
    assert termios.tcgetattr(screen.stream) == before
    wait_until(lambda: b"\x1b[?1049l" in screen.seen, "the screen is given back")
    assert b"frame 2 of 80 by 24" in screen.seen


def test_ctrl_c_ends_it(screen: Screen) -> None:
    """It is what one does; being told to end by others is something else."""
    before = termios.tcgetattr(screen.stream)
    assert shown_until(screen, lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
    assert shown_until(screen, lambda: os.kill(os.getpid(), signal.SIGTERM)) == 128 + signal.SIGTERM
    assert termios.tcgetattr(screen.stream) == before


def test_whatever_ends_it_the_terminal_is_as_it_was(screen: Screen) -> None:
    """A bug in a frame too."""
    before = termios.tcgetattr(screen.stream)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shown_until(screen, fail)
    assert termios.tcgetattr(screen.stream) == before


def test_without_a_terminal_no_key_is_ever_pressed() -> None:
    """A pipe is none; nothing is read of it."""
    read, write = os.pipe()
    os.write(write, b"q")
    with os.fdopen(read) as stream, os.fdopen(write, "w"), Keyboard(stream) as keyboard:
        assert keyboard.pressed(0.0) == ""
    with Keyboard(object()) as keyboard:
        assert keyboard.pressed(0.0) == ""


def test_keys_are_heard_as_they_are_pressed(screen: Screen) -> None:
    """Without the line's end; a terminal that went away is asked no more."""
    with Keyboard(screen.stream) as keyboard:
        assert keyboard.pressed(0.0) == ""
        os.write(screen.hands, b"x")
        assert keyboard.pressed(5.0) == "x"


def test_without_a_screen_it_is_done_until_ctrl_c() -> None:
    """Again and again."""
    done: list[int] = []

    def once() -> None:
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    assert repeat(once, 0.01) == 0
    assert len(done) == 3
