"""What is asked of `/v1/chat/completions` beside what completions have too: tools, formats, hints, faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from benchmarks.completion_probes import BOTH, CHAT, field, five_tokens, post, text_of, usual
from benchmarks.probing import (
    IGNORED,
    SUNNY,
    TIERED,
    YES,
    Json,
    Probe,
    Refused,
    Server,
    accepted,
    job_behind,
    refusal,
    refused,
    tiered,
    words,
)

_TOOL: Final = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells the weather.", "parameters": SUNNY},
}
_OTHER_TOOL: Final = {"type": "function", "function": {"name": "tides", "parameters": SUNNY}}
_SCHEMA: Final = {
    "type": "json_schema",
    "json_schema": {"name": "weather", "strict": True, "schema": SUNNY},
}


def _tools(server: Server) -> str:
    plain = usual(server, CHAT)["usage"]["prompt_tokens"]
    answer = post(server, CHAT, {"tools": [_TOOL]})
    return words(answer, "tools", lambda body: body["usage"]["prompt_tokens"] > plain + 40)


def _called(body: Json) -> bool:
    (call,) = body["choices"][0]["message"]["tool_calls"]
    said = json.loads(call["function"]["arguments"])
    return call["function"]["name"] in {"weather", "tides"} and isinstance(said["sunny"], bool)


def _hint(name: str, value: Any) -> Probe:
    def ask(server: Server) -> str:
        plain = text_of(usual(server, CHAT))
        answer = post(server, CHAT, {name: value})
        if not answer.is_success:
            return refusal(answer, name)
        return "taken" if text_of(accepted(answer)) == plain else "changes the text"

    return Probe(CHAT, f"`{name}`", "a hint: taken, changes nothing", ask)


def _noted(server: Server) -> str:
    said = {"session": "42"}
    made = accepted(post(server, CHAT, {"metadata": said}), "metadata")
    try:
        return YES if job_behind(server, made)["metadata"] == said else IGNORED
    except Refused:
        return IGNORED


_CHAT_FIELDS: Final = (
    field("max_completion_tokens", 5, "five tokens", five_tokens, max_tokens=None),
    field(
        "logprobs",
        True,
        "of each token, with `top_logprobs` others",
        lambda body: (
            [len(each["top_logprobs"]) for each in body["choices"][0]["logprobs"]["content"]] == [3] * 24
        ),
        top_logprobs=3,
    ),
    field(
        "tool_choice",
        "required",
        "a call of the tool with fitting arguments",
        _called,
        tools=[_TOOL],
        max_tokens=200,
    ),
    field(
        "parallel_tool_calls",
        False,
        "one call where one must be made",
        _called,
        tools=[_TOOL, _OTHER_TOOL],
        tool_choice="required",
        max_tokens=200,
    ),
    field(
        "response_format",
        {"type": "json_object"},
        "a JSON object",
        lambda body: isinstance(json.loads(text_of(body)), dict),
        max_tokens=400,
    ),
    field(
        "response_format",
        _SCHEMA,
        "JSON that fits the schema",
        lambda body: list(json.loads(text_of(body))) == ["sunny"],
        max_tokens=200,
    ),
    field("modalities", ["text", "audio"], "sound, or 400 that names it", lambda _: False),
)

_PARTS: Final = [
    {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "something."}]}
]
_IMAGE: Final = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


def _parts(server: Server) -> str:
    plain = usual(server, CHAT)["usage"]["prompt_tokens"]
    answer = post(server, CHAT, {"messages": _PARTS})
    return words(answer, "messages", lambda body: body["usage"]["prompt_tokens"] == plain)


def _model_missing(server: Server) -> str:
    return refused(404, "model_not_found")(post(server, CHAT, {"model": "nobody/serves-this"}))


def _unheard_of(server: Server) -> str:
    answer = post(server, CHAT, {"unheard_of": 1})
    return IGNORED if answer.is_success else refusal(answer, "unheard_of")


def _out_of_range(server: Server) -> str:
    answer = post(server, CHAT, {"temperature": -1})
    return "takes it" if answer.is_success else refusal(answer, "temperature")


def _raw(content: bytes, status: int, kind: str = "application/json") -> Callable[[Server], str]:
    def ask(server: Server) -> str:
        answer = server.http.post(CHAT, content=content, headers={"Content-Type": kind})
        return "takes it" if answer.is_success else refused(status)(answer)

    return ask


CHAT_PROBES: Final = (
    *(make(CHAT) for make in (*BOTH, *_CHAT_FIELDS)),
    Probe(CHAT, "`tools`", "the tool stands in the prompt", _tools),
    Probe(
        CHAT, "`service_tier`", TIERED, lambda server: tiered(server, lambda more: post(server, CHAT, more))
    ),
    Probe(CHAT, "`metadata`", "its job says it", _noted),
    Probe(CHAT, "text parts", "the same prompt as their text whole", _parts),
    Probe(
        CHAT,
        "an image part",
        "an image, or 400 that names it",
        lambda server: words(post(server, CHAT, {"messages": _IMAGE}), "messages", lambda _: False),
    ),
    *(
        _hint(name, value)
        for name, value in (
            ("user", "someone"),
            ("reasoning_effort", "low"),
            ("store", False),
            ("prediction", {"type": "content", "content": "a"}),
            ("prompt_cache_key", "a"),
            ("prompt_cache_options", {"mode": "implicit"}),
            ("prompt_cache_retention", "24h"),
            ("safety_identifier", "someone"),
            ("verbosity", "low"),
        )
    ),
    Probe(CHAT, "a field nobody knows", "400 that names it, or ignored", _unheard_of),
    Probe(CHAT, "a value out of range (`temperature: -1`)", "400 that names the field", _out_of_range),
    Probe(CHAT, "an unknown model", "404 `model_not_found`", _model_missing),
    Probe(CHAT, "no JSON", "400 with an error object", _raw(b"{", 400)),
    Probe(CHAT, "a list for an object", "400 with an error object", _raw(b"[]", 400)),
    Probe(CHAT, "another content type", "415 with an error object", _raw(b"a=b", 415, "text/plain")),
)
