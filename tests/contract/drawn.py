"""What Schemathesis draws, led towards answers: the served model's name, ids that are there, prompts that end in each way.

Loaded by Schemathesis in its own process, as its `hooks`, with a check of its own for streams: that they go to their end.
What came of each call is noted for the test.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import defaultdict
from copy import deepcopy
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import schemathesis
from schemathesis.generation.meta import TestPhase

from tidegate.sse import EventReader

MODEL: Final = "DRAWN_MODEL"
"""The variable that says which model is served."""

CALLS: Final = "DRAWN_CALLS"
"""The variable that says where calls are noted: a line each, of method, path, status, the error's code, media type."""

ENOUGH_SECONDS: Final = 20

_ENDINGS: Final = {0: "fail", 1: "break"}
"""Prompts that the pretended worker knows; one in eight of each."""

_LAST_OF_RESPONSES: Final = {
    "response.completed",
    "response.incomplete",
    "response.failed",
    "response.cancelled",
    "error",
}

_STREAMED: Final = {1, 2, 3}
"""Which of eight are streamed."""

_SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": False}
_ID: Final = re.compile(r"([a-z]+)[_-][0-9a-z]{26}")
_KEY: Final = re.compile(r"[!-~]([ -~]{0,200}[!-~])?")
_INTEGER_MOST: Final = (1 << 64) - 1

_alive: dict[str, list[str]] = defaultdict(list)
"""Ids that were given and not deleted, by what they begin with."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Say what a document cannot: what is there to be named, what can be done."""
    number = zlib.crc32(repr((case.body, case.path_parameters)).encode())
    chained = case.meta is not None and case.meta.phase.name is TestPhase.STATEFUL
    if not chained:  # chains bring ids of their own
        for name, value in (case.path_parameters or {}).items():
            if (known := _known(value, number)) is not None:
                case.path_parameters[name] = known
    if isinstance(case.body, dict) and case.media_type == "application/json":
        body = case.body = deepcopy(case.body)  # cases share what they are varied from
        _lead(body, number)
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and _KEY.fullmatch(key) and number % 8:  # else all but the first are refused
        case.headers["Idempotency-Key"] = f"{key}{number}"


def _lead(body: dict[str, Any], number: int) -> None:
    model = body.get("model")
    if isinstance(model, str) and 0 < len(model) <= 256:
        body["model"] = os.environ[MODEL]
    if _is_sound(body.get("webhook")):
        del body["webhook"]  # it would be called
    if (known := _known(body.get("input_file_id"), number)) is not None:
        body["input_file_id"] = known
    _impose_what_can_be(body)
    for name, value in body.items():
        if isinstance(value, list | dict):
            body[name] = _storable(value)
    asks = {"prompt", "messages", "input"} & set(body)
    if asks and number % 8 in _STREAMED and body.get("stream") in (False, None):
        body["stream"] = True
    ending = _ENDINGS.get(number % 8)
    if ending and isinstance(prompt := body.get("prompt"), str) and prompt:
        body["prompt"] = ending
    for name in ("queue_timeout", "run_timeout"):  # one in eight may run out of time before it is looked at
        seconds = body.get(name)
        if isinstance(seconds, int | float) and 0 < seconds < ENOUGH_SECONDS and number % 8:
            body[name] = ENOUGH_SECONDS


def _known(value: Any, number: int) -> str | None:
    """An id of the same kind that is there, for seven in eight of those that are well formed."""
    formed = _ID.fullmatch(value) if isinstance(value, str) else None
    there = _alive[formed[1]] if formed is not None else []
    return there[number % len(there)] if there and number % 8 else None


def _storable(value: Any) -> Any:
    """The same without integers of more than 64 bits, which are refused wherever they stand."""
    if isinstance(value, dict):
        return {name: _storable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_storable(each) for each in value]
    if isinstance(value, int) and abs(value) > _INTEGER_MOST:
        return _INTEGER_MOST
    return value


def _is_sound(webhook: object) -> bool:
    """Whether the document has nothing against a webhook."""
    said = webhook if isinstance(webhook, dict) else {"url": webhook}
    url, secret = said.get("url"), said.get("secret")
    sound_url = isinstance(url, str) and 0 < len(url) <= 2048
    return sound_url and isinstance(secret, str | None) and set(said) <= {"url", "secret"}


def _impose_what_can_be(body: dict[str, Any]) -> None:
    """Schemas are such as can be imposed; a tool that is chosen is there."""
    form = body.get("response_format")
    named = form.get("json_schema") if isinstance(form, dict) else None
    if isinstance(named, dict) and isinstance(named.get("schema"), dict):
        named["schema"] = _SCHEMA
    tools = body.get("tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, dict) and isinstance(function.get("parameters"), dict):
            function["parameters"] = _SCHEMA
    chosen = body.get("tool_choice")
    function = chosen.get("function") if isinstance(chosen, dict) else None
    if isinstance(function, dict) and isinstance(function.get("name"), str) and 0 < len(tools) < 256:
        tools.append({"type": "function", "function": {"name": function["name"]}})


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Note what came, and which ids are there."""
    status, kind = response.status_code, _media_type(response)
    body = response.json() if kind == "application/json" else {}
    code = body.get("error", {}).get("code", "none") if status >= HTTPStatus.BAD_REQUEST else "none"
    with Path(os.environ[CALLS]).open("a", encoding="utf-8") as calls:
        calls.write(f"{response.request.method} {case.operation.path} {status} {code} {kind}\n")
    name = str(body.get("id", ""))
    if status < HTTPStatus.BAD_REQUEST and (formed := _ID.fullmatch(name)) is not None:
        there = _alive[formed[1]]
        if body.get("deleted") and name in there:
            there.remove(name)
        elif response.request.method == "POST" and name not in there:
            there.append(name)


@schemathesis.check
def streams_go_to_their_end(ctx: Any, response: Any, case: Any) -> None:
    """The last event says that it is the last; what events carry Schemathesis sees to."""
    if _media_type(response) != "text/event-stream":
        return
    events = list(EventReader().feed(response.content))
    if case.operation.path.startswith("/v1/responses"):
        assert not events or events[-1].name in _LAST_OF_RESPONSES, (
            f"a stream that ends with {events[-1].name}"
        )
    elif case.operation.path == "/v1/tide/stream":  # it has no end, and is left
        assert events[0].name == "tide", f"a tide that begins with {events[0].name}"
    else:
        assert events, "a stream without an event"
        assert events[-1].data == "[DONE]", f"a stream that ends with {events[-1].data[:200]}"


def _media_type(response: Any) -> str:
    found: str = response.headers.get("content-type", ["none"])[0]
    return found.partition(";")[0]
