"""A response's input items: what is taken of OpenAI's kinds, how they are kept, the chat messages that they make."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

from scheduler.errors import ClientError

Item = dict[str, Any]
"""One of OpenAI's items, as JSON."""

ITEM_ID: Final = re.compile(r"(?:msg|fc|fco|rs)_([0-9a-z]{26})_(in|out)\d{1,6}")
"""Ids that this queue gives to items: which job's, of its input or of its output."""

_ROLES: Final = ("user", "assistant", "system", "developer")
_TEXT_PARTS: Final = ("input_text", "output_text", "text")
_PREFIXES: Final = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def item_id(kind: str, job_id: str, place: str) -> str:
    """The id of one of a job's items: ``place`` is ``in`` or ``out`` and its number."""
    return f"{_PREFIXES[kind]}_{job_id.removeprefix('job_')}_{place}"


def read_items(sent: str | Sequence[Item]) -> list[Item]:
    """A request's input, each item with the fields that are kept of it; a text is a user's message.

    Raises:
        ClientError: ``invalid_request``; an item is of a kind that is not taken here, or malformed.
    """
    if isinstance(sent, str):
        return [_message({"role": "user", "content": sent}, "input")]
    return [_read(item, f"input.{place}") for place, item in enumerate(sent)]


def with_ids(items: Sequence[Item], job_id: str) -> list[Item]:
    """Kept input items as they are listed: each with an id of its own, and a status where OpenAI's kinds have one."""
    seen: set[str] = set()
    listed: list[Item] = []
    for place, item in enumerate(items):
        own = item_id(item["type"], job_id, f"in{place}")
        given = item.get("id")
        name = own if given is None or given in seen else given
        seen.add(name)
        status = {} if item["type"] == "reasoning" else {"status": "completed"}
        listed.append(status | item | {"id": name})
    return listed


def messages_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The chat messages that items make.

    What an assistant said in one turn (texts, calls of functions, the reasoning before them) is one message, as
    chat templates want it. Reasoning that nothing of the assistant follows is dropped.
    """
    messages: list[dict[str, Any]] = []
    turn, thought = _Turn(), list[str]()
    for item in items:
        kind = item["type"]
        if kind == "reasoning":
            thought.append(_joined(item["content"] or item["summary"]))
            continue
        if kind in {"message", "function_call"} and item.get("role", "assistant") == "assistant":
            turn.say(item, thought)
            thought = []
            continue
        messages += turn.message()
        turn = _Turn()
        if kind == "message":
            messages.append({"role": item["role"], "content": _joined(item["content"])})
        else:
            output = item["output"]
            text = output if isinstance(output, str) else _joined(output)
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": text})
    return messages + turn.message()


def with_instructions(messages: Sequence[dict[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """Messages behind a request's instructions: one system message, as most chat templates take no second one."""
    if not instructions:
        return list(messages)
    leading = list(takewhile(lambda message: message["role"] in {"system", "developer"}, messages))
    texts = [instructions, *(message["content"] for message in leading)]
    return [{"role": "system", "content": "\n\n".join(texts)}, *messages[len(leading) :]]


def without_instructions(
    messages: Sequence[dict[str, Any]], instructions: str | None
) -> list[dict[str, Any]]:
    """What :func:`with_instructions` was given, but that its leading system messages are one."""
    if not instructions or not messages:
        return list(messages)
    first, *rest = messages
    said = str(first.get("content")).removeprefix(instructions).removeprefix("\n\n")
    return [{"role": "system", "content": said}, *rest] if said else rest


@dataclass(slots=True)
class _Turn:
    """What an assistant says in one turn, in pieces: there may be many, so that they are joined once."""

    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def say(self, item: Item, thoughts: Sequence[str]) -> None:
        """Add a text or a call, and the reasoning before it."""
        self.thoughts += thoughts
        if item["type"] == "message":
            self.texts.append(_joined(item["content"]))
            return
        function = {"name": item["name"], "arguments": item["arguments"]}
        self.calls.append({"id": item["call_id"], "type": "function", "function": function})

    def message(self) -> list[dict[str, Any]]:
        """It as a message; none where nothing was said."""
        if not self.texts and not self.calls:
            return []
        said: dict[str, Any] = {"role": "assistant", "content": "".join(self.texts) if self.texts else None}
        if thought := "".join(self.thoughts):
            said["reasoning_content"] = thought
        return [said | ({"tool_calls": self.calls} if self.calls else {})]


def _joined(parts: Sequence[Item]) -> str:
    return "".join(part["text"] for part in parts)


def _read(item: Item, path: str) -> Item:
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference"
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        taken = ", ".join(sorted(_READERS))
        raise _fault(f"{path}.type", f"items of this type are not taken; {taken} are")
    read = reader(item, path)
    name = item.get("id")
    if name is not None:
        read["id"] = _text(item, "id", path, most=128)
    return read


def _message(item: Item, path: str) -> Item:
    role = item.get("role")
    if role not in _ROLES:
        raise _fault(f"{path}.role", f"must be one of {', '.join(_ROLES)}")
    content = item.get("content")
    if isinstance(content, str):
        texts = [content]
    elif isinstance(content, list):
        texts = [_part(part, f"{path}.content.{place}") for place, part in enumerate(content)]
    else:
        raise _fault(f"{path}.content", "must be a text or a list of parts")
    if role == "assistant":
        parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    else:
        parts = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "role": role, "content": parts}


def _call(item: Item, path: str) -> Item:
    named = {name: _text(item, name, path) for name in ("call_id", "name", "arguments")}
    return {"type": "function_call", **named}


def _call_output(item: Item, path: str) -> Item:
    output = item.get("output")
    if isinstance(output, list):
        texts = [_part(part, f"{path}.output.{place}") for place, part in enumerate(output)]
        said: Any = [{"type": "input_text", "text": text} for text in texts]
    else:
        said = _text(item, "output", path)
    return {"type": "function_call_output", "call_id": _text(item, "call_id", path), "output": said}


def _reasoning(item: Item, path: str) -> Item:
    """What was encrypted elsewhere cannot be read here, and counts as nothing."""
    read: Item = {"type": "reasoning"}
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = item.get(name) or []
        if not isinstance(parts, list):
            raise _fault(f"{path}.{name}", "must be a list of parts")
        places = enumerate(parts)
        read[name] = [
            {"type": kind, "text": _part(part, f"{path}.{name}.{place}", (kind,))} for place, part in places
        ]
    return read


def _reference(item: Item, path: str) -> Item:
    return {"type": "item_reference", "id": _text(item, "id", path, most=128)}


_READERS: Final[Mapping[str, Callable[[Item, str], Item]]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _call_output,
    "reasoning": _reasoning,
    "item_reference": _reference,
}


def _part(part: Any, path: str, kinds: Sequence[str] = _TEXT_PARTS) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "refusal" and kinds is _TEXT_PARTS:
        return _text(part, "refusal", path)
    if kind not in kinds:
        raise _fault(path, f"only text is taken: parts of type {', '.join(kinds)}")
    return _text(part, "text", path)


def _text(item: Item, name: str, path: str, most: int | None = None) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise _fault(f"{path}.{name}", "must be a text")
    if most is not None and not 0 < len(value) <= most:
        raise _fault(f"{path}.{name}", f"must have 1 to {most} characters")
    return value


def _fault(param: str, why: str) -> ClientError:
    return ClientError("invalid_request", f"{param}: {why}", param=param)
