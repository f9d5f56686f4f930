"""A job's envelope: the kwargs of RQ's call, with the request in them, and the version that says who can read it."""

from __future__ import annotations

import zlib
from typing import Any, Final

from pydantic import TypeAdapter

from scheduler.errors import ClientError
from scheduler.stored_json import read_json

ENVELOPE_VERSION: Final = 1
"""The version that this release writes. A release that changes what a request or a field means raises it; one that only
adds fields does not: they are carried (:mod:`scheduler.later`), and a job without them means what it meant."""

VERSIONS_READ: Final = frozenset({ENVELOPE_VERSION})
"""The versions whose jobs this release's workers run; jobs of others are left for others. Whatever its version, a job's
meta keeps the names and types of its fields: so every release counts, shows, ends and puts back every job."""

_CALL: Final = TypeAdapter(tuple[Any, Any, Any, dict[str, Any]])

PLAIN_MOST_BYTES: Final = 256 << 20
"""No request is so long, whatever bodies an operator allows: few bytes that unpack to more are an attack."""


def read_envelope(job_id: str, data: bytes | None) -> dict[str, Any]:
    """The kwargs in RQ's ``data``.

    Raises:
        ClientError: ``not_found``; there is no such job, or it is not one of ours.
    """
    if data is None:
        raise ClientError("not_found", f"no job {job_id}", param="id")
    try:
        return _kwargs(data)
    except ValueError:
        raise ClientError("not_found", f"{job_id} is not a generation job", param="id") from None


def is_ours(envelope: dict[str, Any]) -> bool:
    """Whether a worker of this release can run what an envelope holds."""
    version = envelope.get("version")
    return isinstance(version, int) and version in VERSIONS_READ and isinstance(envelope.get("request"), dict)


def _kwargs(data: bytes) -> dict[str, Any]:
    """The kwargs inside RQ's call: JSON of (function, instance, args, kwargs), compressed or, by its setting, not."""
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(data, PLAIN_MOST_BYTES)
        if not reader.eof:
            raise ValueError(f"cut short, or of more than {PLAIN_MOST_BYTES:,} bytes")
    except zlib.error:
        text = data
    *_, kwargs = _CALL.validate_python(read_json(text))
    return kwargs
