"""Requests whose form may have a file: where its bytes go while the form is read, and how many go there at once.

A file's room on the queue's server is reserved when its length is known, which is when all of it has come. Until then
its bytes lie in memory, and past half a MiB in a temporary file that has no name: together no more of them than files
may take on the server, or this host's disk would be the clients' to fill.
"""

from __future__ import annotations

import threading
import time
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, cast

from api.json_body import JsonRequest
from scheduler.errors import ClientError

_IN_MEMORY_BYTES: Final = 512 << 10


class Spool:
    """How many bytes of files that are being read this process holds.

    Args:
        most: of all of them together.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held, self._lock = most, 0, threading.Lock()

    @property
    def held(self) -> int:
        """The bytes."""
        return self._held

    def take(self, count: int) -> None:
        """Hold more.

        Raises:
            ClientError: ``storage_full``; others hold them.
        """
        with self._lock:
            if self._held + count > self._most:
                reason = "uploads that are under way take all the room there is for them"
                raise ClientError("storage_full", reason, param="file", retry_after=5, limit_bytes=self._most)
            self._held += count

    def give_back(self, count: int) -> None:
        """Hold fewer."""
        with self._lock:
            self._held -= count


class UploadRequest(JsonRequest):
    """A request that lets others run between two pieces of a file."""

    spool: Spool | None = None
    """What its files' bytes are counted in, which is the application's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._uploads: list[_Upload] = []

    def close(self) -> None:
        """Let its files go; those too of a form that was broken off, which nobody was given."""
        super().close()
        for each in self._uploads:
            each.close()

    def _get_file_stream(self, *_: object, **__: object) -> IO[bytes]:
        assert self.spool is not None
        self._uploads.append(_Upload(self.spool))
        return cast("IO[bytes]", self._uploads[-1])


class _Upload(SpooledTemporaryFile[bytes]):
    """On a fast connection there is always a next piece: without this nobody else would have a turn."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(max_size=_IN_MEMORY_BYTES)
        self._spool, self._held = spool, 0

    def write(self, piece: Any) -> int:
        """Write a piece, after the others had their turn.

        Raises:
            ClientError: ``storage_full``.
        """
        time.sleep(0)
        self._spool.take(len(piece))
        self._held += len(piece)
        return super().write(piece)

    def close(self) -> None:
        """Let its bytes go."""
        super().close()
        count, self._held = self._held, 0
        self._spool.give_back(count)
