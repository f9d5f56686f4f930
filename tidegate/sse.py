"""Server-sent events, read from bytes as they come (WHATWG HTML, "Parsing an event stream").

httpx's own `iter_lines` is no use here: it also breaks lines at U+2028 and its like, which are ordinary
characters in a model's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. ``id`` is the last one seen on the stream, which is where a reader goes on."""

    name: str
    data: str
    id: str | None

    def json(self) -> Any:
        """The data, decoded; None where it is not JSON."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError):
            return None


class EventReader:
    """Turns chunks of a stream, cut anywhere, into events."""

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self._rest = b""
        self._id = last_id
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that this chunk completes."""
        self._rest += chunk
        while end := _LINE_END.search(self._rest):
            if end[0] == b"\r" and end.end() == len(self._rest):
                return  # a line feed may follow, and belong to it
            line, self._rest = self._rest[: end.start()], self._rest[end.end() :]
            if (event := self._read_line(line.decode(errors="replace"))) is not None:
                yield event

    def _read_line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value
        return None  # a comment (no field), `retry`, or a field of a later day

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_id = self._id  # not before: an event that is cut off after its id has not been read
        event = ServerSentEvent(self._name or "message", "\n".join(self._data), self.last_id)
        has_data, self._name, self._data = bool(self._data), "", []
        return event if has_data else None
