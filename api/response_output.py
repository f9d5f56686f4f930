"""A response's output: items made of its job's log and result, and the events that make them on the way.

It is a fold: each delta of the log adds to what the deltas before it made, and the clock, the process and the way
in which the log was read have no part in it. So every reader of a log, at any time, makes the same events of it.

Reasoning and text that follow each other are items of their own, closed where the other begins; functions' calls come
from the result, behind them. White space before a text is held back: between reasoning and a call it is nobody's
message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from api.response_items import Item, item_id

Event = dict[str, Any]
"""An event of a response's stream, as JSON, without its number."""

_REASONING: Final = "reasoning"
_MESSAGE: Final = "message"
_PARTS: Final = {_REASONING: "reasoning_text", _MESSAGE: "output_text"}


@dataclass(slots=True)
class _Open:
    """The item that text is added to."""

    kind: str
    id: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    @property
    def text(self) -> str:
        """It so far; joined when it is asked for, as a long answer has many pieces."""
        return "".join(self.pieces)

    @property
    def part(self) -> Item:
        """Its one part of content, so far."""
        return _part(self.kind, self.text, self.logprobs)

    def item(self, status: str) -> Item:
        """The item; without content while it is in progress."""
        content = [] if status == "in_progress" else [self.part]
        if self.kind == _REASONING:
            return {
                "id": self.id,
                "type": _REASONING,
                "status": status,
                "summary": [],
                "content": content,
                "encrypted_content": None,
            }
        return {
            "id": self.id,
            "type": _MESSAGE,
            "status": status,
            "role": "assistant",
            "content": content,
        }


class Output:
    """A response's output so far.

    Args:
        job_id: whose.
        logprobs: whether the text comes with its logprobs.
        calls_most: how many calls of functions are taken; None: all.
    """

    def __init__(self, job_id: str, *, logprobs: bool = False, calls_most: int | None = None) -> None:
        self.items: list[Item] = []
        """Those that are closed."""
        self.reasoning_tokens = 0
        """About how many tokens reasoned: of a delta with text too, the part that its characters are."""
        self._job_id = job_id
        self._logprobs = logprobs
        self._calls_most = calls_most
        self._open: _Open | None = None
        self._held = ""
        self._held_logprobs: list[Any] = []
        self._said: dict[str, list[str]] = {_REASONING: [], _MESSAGE: []}

    def delta(self, data: Mapping[str, Any]) -> list[Event]:
        """What a delta of the log brings."""
        reasoning, text = _text(data, "reasoning"), _text(data, "text")
        if reasoning:
            tokens = data.get("tokens")
            count = len(tokens) if isinstance(tokens, list) else 0
            self.reasoning_tokens += round(count * len(reasoning) / (len(reasoning) + len(text)))
        logprobs = data.get("logprobs") if self._logprobs and not reasoning else None
        events = self._say(_REASONING, reasoning) if reasoning else []
        return events + self._take_text(text, logprobs if isinstance(logprobs, list) else [])

    def end(self, result: Mapping[str, Any] | None, status: str) -> list[Event]:
        """What the end brings: the rest of the result that the log does not have, and the calls.

        Args:
            result: the job's; None where it has none.
            status: how the last item ends: ``completed`` or ``incomplete``.
        """
        whole = result or {}
        events: list[Event] = []
        if rest := self._unsaid(_REASONING, _text(whole, "reasoning")):
            events += self._say(_REASONING, rest)
        if rest := self._unsaid(_MESSAGE, _text(whole, "text")):
            events += self._take_text(rest, [])
        calls = [call for call in map(_call, _list(whole, "tool_calls")) if call][: self._calls_most]
        if self._held and not calls and not any(item["type"] == _MESSAGE for item in self.items):
            events += self._release("")
        events += self._close("completed" if calls else status)
        for call in calls:
            events += self._call(call)
        return events

    def _unsaid(self, kind: str, whole: str) -> str:
        said = "".join(self._said[kind])
        return whole[len(said) :] if whole.startswith(said) else ""

    def _take_text(self, text: str, logprobs: list[Any]) -> list[Event]:
        self._said[_MESSAGE].append(text)
        self._held_logprobs += logprobs
        writing = self._open is not None and self._open.kind == _MESSAGE
        if not text or (not writing and not text.strip()):
            self._held += text
            return []
        return self._release(text)

    def _release(self, text: str) -> list[Event]:
        """Say what was held back, and a text behind it."""
        said, logprobs = self._held + text, self._held_logprobs
        self._held, self._held_logprobs = "", []
        return self._say(_MESSAGE, said, logprobs)

    def _say(self, kind: str, text: str, logprobs: list[Any] | None = None) -> list[Event]:
        events: list[Event] = []
        if self._open is None or self._open.kind != kind:
            events += self._close("completed")
            self._open = _Open(kind, item_id(kind, self._job_id, f"out{len(self.items)}"))
            place = len(self.items)
            item = self._open.item("in_progress")
            events.append({"type": "response.output_item.added", "output_index": place, "item": item})
            events.append(self._event("response.content_part.added", part=_part(kind, "", [])))
        assert self._open is not None
        self._open.pieces.append(text)
        if kind == _REASONING:
            self._said[kind].append(text)
            return [*events, self._event("response.reasoning_text.delta", delta=text)]
        self._open.logprobs += logprobs or []
        return [*events, self._event("response.output_text.delta", delta=text, logprobs=logprobs or [])]

    def _close(self, status: str) -> list[Event]:
        if self._open is None:
            return []
        text, part = self._open.text, self._open.part
        more = {} if self._open.kind == _REASONING else {"logprobs": part["logprobs"]}
        item = self._open.item(status)
        events = [
            self._event(f"response.{_PARTS[self._open.kind]}.done", text=text, **more),
            self._event("response.content_part.done", part=part),
            {"type": "response.output_item.done", "output_index": len(self.items), "item": item},
        ]
        self.items.append(item)
        self._open = None
        return events

    def _event(self, kind: str, **fields: Any) -> Event:
        """An event about the open item's content."""
        assert self._open is not None
        place = {"item_id": self._open.id, "output_index": len(self.items), "content_index": 0}
        return {"type": kind, **place, **fields}

    def _call(self, call: Item) -> list[Event]:
        index = len(self.items)
        name = item_id("function_call", self._job_id, f"out{index}")
        item = {"id": name, "type": "function_call", **call, "status": "completed"}
        self.items.append(item)
        place = {"item_id": name, "output_index": index}
        begun = item | {"arguments": "", "status": "in_progress"}
        said = "response.function_call_arguments"
        return [
            {"type": "response.output_item.added", "output_index": index, "item": begun},
            {"type": f"{said}.delta", **place, "delta": call["arguments"]},
            {"type": f"{said}.done", **place, "name": call["name"], "arguments": call["arguments"]},
            {"type": "response.output_item.done", "output_index": index, "item": item},
        ]


def _part(kind: str, text: str, logprobs: list[Any]) -> Item:
    part: Item = {"type": _PARTS[kind], "text": text}
    return part if kind == _REASONING else part | {"annotations": [], "logprobs": list(logprobs)}


def _call(call: Any) -> Item | None:
    """A call of a result, which is in the chat's form; None where it is not."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return None
    named = {"call_id": call.get("id"), "name": function.get("name"), "arguments": function.get("arguments")}
    return named if all(isinstance(value, str) for value in named.values()) else None


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    return value if isinstance(value, list) else []
