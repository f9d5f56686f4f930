"""What an engine says while its worker waits for the store: kept in order, up to a bound."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.waiting import wait_until
from workers.overhearing import overhearing
from workers.wire import Receiver, Sender, WireBroken

PIPE_BYTES = 64 << 10
WORD = "x" * 1000


@pytest.fixture
def pipe() -> Iterator[tuple[Receiver, Sender, int]]:
    """A worker's end, an engine's end, and that end's number."""
    reading, writing = os.pipe()
    yield Receiver(reading), Sender(writing), writing
    for each in (reading, writing):
        with suppress(OSError):
            os.close(each)


def say(sender: Sender, count: int) -> threading.Thread:
    """An engine that says so much, and waits where nobody hears it."""

    def speak() -> None:
        for number in range(count):
            sender.send({"kind": "step", "number": number, "word": WORD})

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    return thread


def heard(receiver: Receiver, count: int) -> list[int]:
    """The numbers of so many messages, kept or still to come."""
    numbers = [message["number"] for message in receiver.whole()]
    while len(numbers) < count:
        numbers += [message["number"] for message in receiver.read()]
    return numbers


def test_an_engine_need_not_wait(pipe: tuple[Receiver, Sender, int]) -> None:
    """It says far more than its pipe holds, and everything is there afterwards, in order."""
    receiver, sender, _ = pipe
    with overhearing(receiver):
        speaking = say(sender, 1000)
        speaking.join(10)
        assert not speaking.is_alive()
    assert heard(receiver, 1000) == list(range(1000))
    assert receiver.unread_bytes == 0


def test_what_is_kept_is_bounded(pipe: tuple[Receiver, Sender, int]) -> None:
    """At the bound the engine waits; it goes on, without a gap, when somebody listens."""
    receiver, sender, _ = pipe
    most = 4 * PIPE_BYTES
    with overhearing(receiver, most):
        speaking = say(sender, 1000)
        wait_until(lambda: receiver.unread_bytes >= most, "the bound")
        speaking.join(0.3)
        assert speaking.is_alive()
        assert receiver.unread_bytes < most + (1 << 18) + PIPE_BYTES
    assert heard(receiver, 1000) == list(range(1000))


def test_a_death_meanwhile_is_found_afterwards(pipe: tuple[Receiver, Sender, int]) -> None:
    """What it said before is heard; the pipe's end is the next reader's to find."""
    receiver, sender, writing = pipe
    with overhearing(receiver):
        say(sender, 1).join(10)
        os.close(writing)
    assert [message["number"] for message in receiver.whole()] in ([0], [])
    with pytest.raises(WireBroken):
        while True:
            receiver.read()


def test_nobody_listens_on(pipe: tuple[Receiver, Sender, int]) -> None:
    """After the block the pipe is the worker's alone again."""
    receiver, sender, _ = pipe
    with overhearing(receiver):
        pass
    say(sender, 1).join(10)
    assert receiver.unread_bytes == 0
    assert [message["number"] for message in receiver.read()] == [0]
