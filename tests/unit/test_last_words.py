"""What a process wrote to its stderr, as it is remembered."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest

from workers.last_words import LastWords


@pytest.fixture
def pipe() -> Iterator[tuple[LastWords, IO[bytes]]]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as end:
        words = LastWords(os.fdopen(reading, "rb"))
        yield words, end
    words.close()


def test_lines_are_kept_as_they_come(pipe: tuple[LastWords, IO[bytes]]) -> None:
    """Whole ones, empty ones left out; reading waits for nothing."""
    words, end = pipe
    words.read()
    assert words.lines == []
    end.write("one\n\n  \ntwo ✓\nth".encode())
    words.read()
    assert words.lines == ["one", "two ✓"]
    end.write(b"ree\n")
    words.read()
    assert words.lines == ["one", "two ✓", "three"]


def test_the_last_line_needs_no_end(pipe: tuple[LastWords, IO[bytes]]) -> None:
    """Nor must it be text: an abort may cut it anywhere."""
    words, end = pipe
    end.write(b"\xff\xfeterminate called\nwhat():  \xe2\x9c")
    words.close()
    assert len(words.lines) == 2
    assert words.lines[1].startswith("what():  ")
    words.close()  # once more changes nothing
    assert len(words.lines) == 2


def test_only_so_much_is_kept() -> None:
    """The last lines of many, and the last part of one without an end; whoever writes them is read empty."""
    script = "import sys; [print(n, file=sys.stderr) for n in range(100_000)]; sys.stderr.write('x' * 300_000 + 'END')"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    assert process.stderr is not None
    words = LastWords(process.stderr)
    while process.poll() is None:
        words.read()
    words.close()
    assert len(words.lines) == 40
    assert words.lines[-2] == "99999"
    assert words.lines[-1].endswith("xEND")
    assert len(words.lines[-1]) < 10_000
