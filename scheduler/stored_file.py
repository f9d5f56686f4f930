"""What a stored file is: its fields, its chunks, and how its hash on the server is read. Pure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from scheduler.job import new_job_id
from scheduler.owner import OWNER

FILE_ID: Final = re.compile("file-[0-9a-z]{26}")

CHUNK_BYTES: Final = 256 << 10
"""Bytes of a file that are stored, sent and read together: no single command is larger."""

FILE_SECONDS: Final = 30 * 86_400
"""How long a file is kept, as OpenAI keeps those of batches."""

LEAST_SECONDS: Final = 3600
"""The shortest time that OpenAI's ``expires_after`` may name; the longest is :data:`FILE_SECONDS`."""

_LEVEL: Final = 1  # JSON lines shrink to a fifth already, at ten times the speed of the best level


def new_file_id(now_seconds: float) -> str:
    """A file's id; ids sort by time of creation."""
    return f"file-{new_job_id(now_seconds).removeprefix('job_')}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file. Sizes are bytes of what was uploaded, times are Unix seconds.

    ``uses`` is how many batches still read it: until they ended it is neither deleted nor lapses.
    """

    id: str
    owner: str
    filename: str
    purpose: Literal["batch", "batch_output"]
    size_bytes: Annotated[int, Field(ge=0)]
    created_at: float
    expires_at: float
    uses: int = 0

    __pydantic_config__: ClassVar = ConfigDict(allow_inf_nan=False)

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return -(-self.size_bytes // CHUNK_BYTES)

    def lapsed(self, now_seconds: float) -> bool:
        """Whether clients see it no more."""
        return now_seconds >= self.expires_at and self.uses <= 0

    def fields(self) -> dict[str, Any]:
        """Its hash."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "id"}

    def view(self) -> dict[str, Any]:
        """The file as OpenAI's clients see it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


_FILE: Final = TypeAdapter(StoredFile)


def read_file(file_id: str, fields: Mapping[bytes, bytes]) -> StoredFile | None:
    """A file from its hash; None where there is none, or others wrote something else there."""
    try:
        named = {name.decode(): value.decode() for name, value in fields.items()}
        known = {name: value for name, value in named.items() if name in StoredFile.__slots__}
        found = _FILE.validate_python({**known, "id": file_id})
    except ValueError:
        return None
    return found if OWNER.fullmatch(found.owner) else None


def pack(chunk: bytes) -> bytes:
    """A chunk as it is stored."""
    return zlib.compress(chunk, _LEVEL)


def unpack(stored: bytes, most_bytes: int = CHUNK_BYTES) -> bytes:
    """A stored chunk's bytes; no more than there can be, whoever wrote it.

    Raises:
        ValueError: it is no chunk.
    """
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(stored, most_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"not a chunk: {error}") from None
    if len(found) > most_bytes or not reader.eof:
        raise ValueError(f"not a whole chunk of at most {most_bytes:,} bytes")
    return found
