"""A batch's lines: where one ends, what a sound one says, and what is written of how it went. Pure.

A line that is not sound costs only itself: it is told in the error file, by its number where it has no
``custom_id``, and the others run. OpenAI refuses such a file as a whole; here that is left to a file of which
no line can run.
"""

from __future__ import annotations

import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.envelope import PLAIN_MOST_BYTES
from scheduler.errors import ClientError, gib
from scheduler.stored_file import CHUNK_BYTES

LINES_MOST: Final = 50_000
"""OpenAI's own bound on the requests of a batch."""

NUMBERED_MOST: Final = 4 * LINES_MOST
"""Lines with those that are blank: a file of newlines alone is soon seen through."""

CUSTOM_ID_MOST: Final = 512
_AROUND_BODY_BYTES: Final = 4096
"""What a line may have beside its body."""


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it stands in the file.

    Args:
        number: from 1.
        text: the line, or as much of one that is too long as shows that it is.
        end: the byte behind it.
        size_bytes: its length.
    """

    number: int
    text: bytes
    end: int
    size_bytes: int

    @property
    def blank(self) -> bool:
        """Whether it asks nothing."""
        return len(self.text) == self.size_bytes and not self.text.strip()


@dataclass(frozen=True, slots=True)
class Line:
    """A sound line: the request that it makes."""

    number: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that makes no request, and why; ``code`` is the reason's short name, as OpenAI has them."""

    number: int
    custom_id: str | None
    code: str
    error: ClientError


def raw_lines(
    chunk: Callable[[int], bytes], size_bytes: int, most_bytes: int, offset: int = 0, number: int = 1
) -> Iterator[RawLine]:
    """The lines of a file, from one on.

    Args:
        chunk: the file's chunks, by number from 0.
        size_bytes: the file's size.
        most_bytes: of each line, how much is kept at least while it is read.
        offset: the byte at which the first line begins.
        number: its number.
    """
    pieces: list[bytes] = []
    at = begin = offset
    kept = 0
    while at < size_bytes:
        index, inside = divmod(at, CHUNK_BYTES)
        data = chunk(index)
        if inside >= len(data):  # a chunk that is shorter than it was
            break
        while inside < len(data):
            newline = data.find(b"\n", inside)
            stop = len(data) if newline < 0 else newline + 1
            if kept <= most_bytes:
                pieces.append(data[inside:stop])
                kept += stop - inside
            at += stop - inside
            inside = stop
            if newline >= 0:
                yield RawLine(number, b"".join(pieces), at, at - begin)
                pieces, kept, begin, number = [], 0, at, number + 1
    if pieces:
        yield RawLine(number, b"".join(pieces), at, at - begin)


def line_most(max_body_bytes: int) -> int:
    """The longest line that is taken, where bodies are bounded so."""
    return max_body_bytes + _AROUND_BODY_BYTES


def read_line(
    raw: RawLine, endpoint: str, max_body_bytes: int, read: Callable[[bytes], dict[str, Any]]
) -> Line | Fault:
    """What a line asks.

    Args:
        raw: the line, not blank.
        endpoint: the batch's; each line names it again.
        max_body_bytes: the longest body that is taken.
        read: parses a JSON object strictly; raises a ``ClientError``.
    """
    number, size = raw.number, raw.size_bytes
    if size > line_most(max_body_bytes):
        reason = f"line {number} is {gib(size)}; bodies of at most {gib(max_body_bytes)} are taken"
        return Fault(number, None, "line_too_large", ClientError("body_too_large", reason))
    try:
        said = read((raw.text.removeprefix(BOM_UTF8) if number == 1 else raw.text).strip())
    except ClientError as error:
        reason = f"line {number} cannot be read: {error.message}"
        return Fault(number, None, "invalid_json_line", ClientError(error.code, reason))
    custom_id, method, body = said.get("custom_id"), said.get("method"), said.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID_MOST:
        reason = f"a text of 1 to {CUSTOM_ID_MOST} letters is needed"
        return _fault(number, None, "invalid_custom_id", "custom_id", reason)
    if method != "POST":
        return _fault(number, custom_id, "invalid_method", "method", "this must be POST")
    if said.get("url") != endpoint:
        return _fault(number, custom_id, "mismatched_url", "url", f"this must be the batch's {endpoint}")
    if not isinstance(body, dict):
        return _fault(number, custom_id, "invalid_body", "body", "an object is needed")
    return Line(number, custom_id, body)


def repeated(line: Line) -> Fault:
    """A line whose ``custom_id`` an earlier one has: the answers could not be told apart."""
    reason = f"an earlier line has {line.custom_id[:64]!r} too"
    return _fault(line.number, line.custom_id, "duplicate_custom_id", "custom_id", reason)


def _fault(number: int, custom_id: str | None, code: str, param: str, reason: str) -> Fault:
    error = ClientError("invalid_request", f"line {number}: {param}: {reason}", param=param)
    return Fault(number, custom_id, code, error)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is written of a line: into the output file where it ``succeeded``, else into the error file."""

    succeeded: bool
    body: dict[str, Any]


def pack_entry(entry: Entry) -> bytes:
    """An entry as it is kept until its file is written."""
    said = json.dumps(entry.body, separators=(",", ":"))
    return (b"+" if entry.succeeded else b"-") + zlib.compress(said.encode(), 1)


def read_entry(stored: bytes) -> tuple[bool, bytes] | None:
    """Whether a line was answered, and its entry as JSON; None where others wrote what is there."""
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(stored[1:], PLAIN_MOST_BYTES)
    except zlib.error:
        return None
    return (stored[:1] == b"+", text) if reader.eof else None


def _entry(batch_id: str, number: int, custom_id: str | None, **how: Any) -> dict[str, Any]:
    name = f"batch_req_{batch_id.removeprefix('batch_')}_{number}"
    return {"id": name, "custom_id": custom_id, "response": None, "error": None} | how


def answered(batch_id: str, number: int, custom_id: str, request_id: str, body: dict[str, Any]) -> Entry:
    """A line that was answered."""
    response = {"status_code": 200, "request_id": request_id, "body": body}
    return Entry(True, _entry(batch_id, number, custom_id, response=response))


def refused(
    batch_id: str, number: int, custom_id: str | None, error: ClientError, request_id: str = ""
) -> Entry:
    """A line that met an error, as its own route would have told it."""
    body = {"error": error.body()}
    response = {"status_code": error.row.status, "request_id": request_id, "body": body}
    return Entry(False, _entry(batch_id, number, custom_id, response=response))


def tokens_of(body: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that an answer counts, by the names of the batch's counts; OpenAI's routes have two names each."""
    usage = body.get("usage") or {}
    counts = {
        "input_tokens": (usage.get("prompt_tokens"), usage.get("input_tokens")),
        "output_tokens": (usage.get("completion_tokens"), usage.get("output_tokens")),
    }
    for name, side, old in (
        ("cached_tokens", "input_tokens", "prompt_tokens"),
        ("reasoning_tokens", "output_tokens", "completion_tokens"),
    ):
        details = usage.get(f"{side}_details") or usage.get(f"{old}_details") or {}
        counts[name] = (details.get(name), None)
    found = {name: next((each for each in told if isinstance(each, int)), 0) for name, told in counts.items()}
    return {name: count for name, count in found.items() if count > 0}


def unfinished(batch_id: str, number: int, custom_id: str, *, expired: bool) -> Entry:
    """A line that was not answered when its batch ended."""
    error = {"code": "batch_cancelled", "message": "the batch was cancelled before this request was done"}
    if expired:
        message = "the batch's window closed before this request was done"
        error = {"code": "batch_expired", "message": message}
    return Entry(False, _entry(batch_id, number, custom_id, error=error))
