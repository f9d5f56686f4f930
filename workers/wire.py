"""Messages between a worker and its engine: length-prefixed JSON objects over a pair of pipes.

Engine-bound ``kind``s: ``configure``, ``share``, ``load``, ``unload``, ``run``, ``grant``, ``remove``, ``measure``.
Worker-bound: ``host``, ``ready``, ``measured``, ``loading``, ``measuring``, ``loaded``, ``load_failed``, ``counting``, ``sized``,
``refused``, ``account``, ``step``, ``raised``, ``shed``, ``removed``, ``learnt``.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable
from typing import Any, Final

Message = dict[str, Any]

_LENGTH: Final = struct.Struct(">I")
MAX_MESSAGE_BYTES: Final = 64 << 20
_READ_BYTES: Final = 1 << 18


class WireBroken(Exception):
    """The other end is gone, or sent what is not a message."""


class Sender:
    """Writes messages to a pipe.

    Args:
        fd: the pipe's writing end.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Write one message, waiting while the pipe is full.

        Raises:
            WireBroken: nobody reads any more.
        """
        body = json.dumps(message, separators=(",", ":")).encode()
        view = memoryview(_LENGTH.pack(len(body)) + body)
        try:
            with self._lock:
                while view:
                    view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise WireBroken(str(error)) from error


class Outbox:
    """Messages to somebody who may not be reading: kept here, and never waited for.

    Args:
        fd: the pipe's writing end.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._left = bytearray()

    @property
    def full(self) -> bool:
        """Whether something waits until the other end reads."""
        return bool(self._left)

    def fileno(self) -> int:
        """For selectors."""
        return self._fd

    def send(self, message: Message) -> None:
        """Write one message, as much of it as goes now.

        Raises:
            WireBroken: nobody reads any more.
        """
        body = json.dumps(message, separators=(",", ":")).encode()
        self._left += _LENGTH.pack(len(body)) + body
        self.flush()

    def flush(self) -> None:
        """Write what goes now.

        Raises:
            WireBroken: nobody reads any more.
        """
        try:
            while self._left:
                del self._left[: os.write(self._fd, self._left)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise WireBroken(str(error)) from error

    def close(self) -> None:
        """Let the other end see that nothing follows."""
        os.close(self._fd)


class Receiver:
    """Reads messages from a pipe.

    Args:
        fd: the pipe's reading end.
        decode: makes a message of its bytes; raises :class:`WireBroken` where they are none.
    """

    def __init__(self, fd: int, decode: Callable[[bytes], Message] | None = None) -> None:
        self._fd, self._decode = fd, decode or decoded
        self._buffer = bytearray()

    def fileno(self) -> int:
        """For selectors."""
        return self._fd

    def close(self) -> None:
        """Read no more."""
        os.close(self._fd)

    @property
    def unread_bytes(self) -> int:
        """What was taken in and not yet read."""
        return len(self._buffer)

    def read(self) -> list[Message]:
        """Wait for bytes and return the messages that are whole.

        Raises:
            WireBroken: the pipe ended, or holds what is not a message.
        """
        if not self.take_in():
            raise WireBroken("the pipe ended")
        return self.whole()

    def take_in(self) -> bool:
        """Wait for bytes and keep them; False where the pipe ended."""
        try:
            chunk = os.read(self._fd, _READ_BYTES)
        except OSError:
            return False
        self._buffer += chunk
        return bool(chunk)

    def whole(self) -> list[Message]:
        """The messages that are whole, of what was taken in.

        Raises:
            WireBroken: it is not a message.
        """
        messages: list[Message] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE_BYTES:
                raise WireBroken(f"a message of {length:,} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            messages.append(self._decode(body))
        return messages


def decoded(body: bytes) -> Message:
    """A message, of whatever kind.

    Raises:
        WireBroken: it is none.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireBroken(f"not JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise WireBroken("a message without a kind")
    return message
