"""Messages between worker and engine survive any cutting up, and rubbish is refused."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.wire import MAX_MESSAGE_BYTES, Message, Outbox, Receiver, Sender, WireBroken

MESSAGES = st.lists(
    st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers())).map(
        lambda fields: fields | {"kind": "step"}
    ),
    max_size=5,
)


@contextmanager
def pipe() -> Iterator[tuple[int, Receiver]]:
    """A writing end, and a receiver on the other; the test may close the writing end itself."""
    read_fd, write_fd = os.pipe()
    receiver = Receiver(read_fd)
    copy = os.dup(write_fd)
    os.close(write_fd)
    try:
        yield copy, receiver
    finally:
        receiver.close()
        try:
            os.close(copy)
        except OSError:
            return


def framed(*messages: Any) -> bytes:
    """The bytes of messages."""
    bodies = [json.dumps(message).encode() for message in messages]
    return b"".join(struct.pack(">I", len(body)) + body for body in bodies)


def heard(pieces: list[bytes]) -> list[Message]:
    """What is received where the pieces arrive one by one."""
    with pipe() as (fd, receiver):
        found: list[Message] = []
        for piece in filter(None, pieces):
            os.write(fd, piece)
            found += receiver.read()
        return found


def test_a_message_may_be_cut_at_every_byte() -> None:
    """Two messages in two pieces, wherever the cut is, arrive once, in order."""
    messages = [{"kind": "run", "prompt": "é\n"}, {"kind": "grant"}]
    data = framed(*messages)
    for cut in range(len(data) + 1):
        assert heard([data[:cut], data[cut:]]) == messages


@given(MESSAGES, st.data())
def test_messages_arrive_whole_in_any_pieces(messages: list[Message], data: st.DataObject) -> None:
    """However the bytes are cut, the same messages come out."""
    whole = framed(*messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert heard(pieces) == messages


@given(MESSAGES)
def test_what_is_sent_is_received(messages: list[Message]) -> None:
    """A sender's messages are read back equal."""
    with pipe() as (fd, receiver):
        sender = Sender(fd)
        found: list[Message] = []
        for message in messages:
            sender.send(message)
            found += receiver.read()
        assert found == messages


def test_messages_of_two_threads_do_not_mix() -> None:
    """Messages larger than a pipe holds, sent by two threads at once, arrive whole."""
    with pipe() as (fd, receiver):
        sender = Sender(fd)
        threads = [
            threading.Thread(
                target=lambda name=name: [sender.send({"kind": name * 300_000}) for _ in range(4)]
            )
            for name in "ab"
        ]
        for thread in threads:
            thread.start()
        found: list[Message] = []
        while len(found) < 8:
            found += receiver.read()
        for thread in threads:
            thread.join()
        assert sorted(message["kind"][:1] for message in found) == list("aaaabbbb")
        assert all(len(set(message["kind"])) == 1 for message in found)


def test_a_message_too_large_is_refused_by_its_length() -> None:
    """The length alone is enough: nothing is gathered for it."""
    with pytest.raises(WireBroken, match=f"{MAX_MESSAGE_BYTES + 1:,}"):
        heard([struct.pack(">I", MAX_MESSAGE_BYTES + 1)])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"kind"',
        b"null",
        b"{}",
        b'{"kind": 3}',
        b'{"kind": null}',
        b"\x80\x04\x95.",
        pytest.param(b'{"kind": ' + b"[" * 5_000, id="deep"),
    ],
)
def test_rubbish_is_refused(body: bytes) -> None:
    """A body that is not an object with a kind breaks the wire, and nothing else."""
    with pytest.raises(WireBroken):
        heard([struct.pack(">I", len(body)), body])


@given(st.binary(min_size=1, max_size=200))
def test_no_bytes_do_worse_than_break_the_wire(data: bytes) -> None:
    """Whatever arrives, the receiver answers with messages or with WireBroken."""
    with pipe() as (fd, receiver):
        os.write(fd, data)
        try:
            assert all(isinstance(message["kind"], str) for message in receiver.read())
        except WireBroken:
            return


@pytest.mark.parametrize("before", [b"", b"\x00\x00", framed({"kind": "a"})[:-1]])
def test_an_end_is_told(before: bytes) -> None:
    """The end of the pipe is an error, within a message or between two."""
    with pipe() as (fd, receiver):
        if before:
            os.write(fd, before)
            assert receiver.read() == []
        os.close(fd)
        with pytest.raises(WireBroken, match="the pipe ended"):
            receiver.read()


def test_what_came_before_the_end_is_read_first() -> None:
    """A message whose sender died right after it still arrives."""
    with pipe() as (fd, receiver):
        os.write(fd, framed({"kind": "last words"}))
        os.close(fd)
        assert receiver.read() == [{"kind": "last words"}]
        with pytest.raises(WireBroken):
            receiver.read()


def test_sending_to_nobody_is_told() -> None:
    """A reader that went away is an error and not a signal."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    sender = Sender(write_fd)
    with pytest.raises(WireBroken):
        sender.send({"kind": "run"})
    os.close(write_fd)


def test_an_outbox_never_waits_for_its_reader() -> None:
    """More than the pipe holds is kept, and goes in order as the other end reads; then nothing is left."""
    with pipe() as (fd, receiver):
        outbox = Outbox(fd)
        messages = [{"kind": f"{number} " * 20_000} for number in range(12)]
        for message in messages:
            outbox.send(message)
        assert outbox.full
        found: list[Message] = []
        while len(found) < len(messages):
            found += receiver.read()
            outbox.flush()
        assert found == messages
        assert not outbox.full


def test_an_outbox_without_a_reader_is_told() -> None:
    """Even where its words could only be kept."""
    read_fd, write_fd = os.pipe()
    outbox = Outbox(write_fd)
    outbox.send({"kind": "x" * 200_000})
    os.close(read_fd)
    with pytest.raises(WireBroken):
        outbox.flush()
    outbox.close()
