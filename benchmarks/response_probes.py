"""What is asked of `/v1/responses`, field by field."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx

from benchmarks.probing import (
    IGNORED,
    SUNNY,
    TIERED,
    YES,
    Json,
    Probe,
    Server,
    Shown,
    accepted,
    ended,
    events,
    refusal,
    streamed,
    tiered,
    words,
)
from benchmarks.webhook_probes import webhook_probes

RESPONSES: Final = "/v1/responses"


def _create(server: Server, **fields: Any) -> httpx.Response:
    body = {"model": server.model, "input": "Say something.", "max_output_tokens": 24, "temperature": 0}
    return server.http.post(RESPONSES, json=body | fields)


def _has_text(body: Json) -> bool:
    return any(_text(body))


def _text(body: Json) -> list[str]:
    return [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]


def _waiting(server: Server) -> str:
    return words(_create(server), "input", _has_text)


def _background(server: Server) -> str:
    made = accepted(_create(server, background=True), "background")
    if made["status"] not in {"queued", "in_progress"}:
        return IGNORED
    found = ended(server, f"{RESPONSES}/{made['id']}")
    return YES if found.get("status") in {"completed", "incomplete"} and _has_text(found) else IGNORED


def _cancelled(server: Server) -> str:
    made = accepted(_create(server, background=True, max_output_tokens=3000))
    answer = server.http.post(f"{RESPONSES}/{made['id']}/cancel")
    return words(answer, "", lambda body: body["status"] == "cancelled")


def _deleted(server: Server) -> str:
    made = accepted(_create(server))
    path = f"{RESPONSES}/{made['id']}"
    answer = server.http.delete(path)
    return words(answer, "", lambda body: body["deleted"] and server.http.get(path).status_code == 404)


def _said(answer: httpx.Response) -> list[Json]:
    return [json.loads(data) for _, data in events(answer) if data != "[DONE]"]


def _streamed(server: Server) -> str:
    body = {"model": server.model, "input": "Say something.", "max_output_tokens": 24, "stream": True}
    with streamed(server, "POST", RESPONSES, "stream", json=body) as answer:
        said = _said(answer)
    kinds = [event["type"] for event in said]
    numbers = [event["sequence_number"] for event in said]
    whole = kinds[0] == "response.created" and kinds[-1] in {"response.completed", "response.incomplete"}
    return YES if whole and numbers == list(range(len(said))) else IGNORED


def _resumed(server: Server) -> str:
    made = accepted(_create(server, background=True))
    path = f"{RESPONSES}/{made['id']}"
    ended(server, path)
    with streamed(server, "GET", path, "stream", params={"stream": "true"}) as answer:
        whole = _said(answer)
    with streamed(server, "GET", path, params={"stream": "true", "starting_after": 2}) as answer:
        rest = _said(answer)
    return YES if whole and rest == whole[3:] else IGNORED


def _goes_on(server: Server) -> str:
    first = accepted(_create(server))
    alone = first["usage"]["input_tokens"]
    answer = _create(server, previous_response_id=first["id"])
    return words(answer, "previous_response_id", lambda body: body["usage"]["input_tokens"] > alone + 20)


def _items(server: Server) -> str:
    made = accepted(_create(server))
    answer = server.http.get(f"{RESPONSES}/{made['id']}/input_items")
    return words(answer, "", lambda body: len(body["data"]) == 1)


def _fitting(server: Server) -> str:
    form = {"type": "json_schema", "name": "weather", "strict": True, "schema": SUNNY}
    answer = _create(server, text={"format": form}, max_output_tokens=200)
    return words(
        answer, "text", lambda body: list(json.loads(body["output"][-1]["content"][0]["text"])) == ["sunny"]
    )


def _said_again(name: str, value: Any) -> Probe:
    """A field that the response says again, and that changes nothing else here."""
    return Probe(
        RESPONSES,
        f"`{name}`",
        "the response says it",
        lambda server: words(_create(server, **{name: value}), name, lambda body: body[name] == value),
    )


def _field(name: str, value: Any, right: str, shown: Shown, **more: Any) -> Probe:
    return Probe(
        RESPONSES,
        f"`{name}`",
        right,
        lambda server: words(_create(server, **{name: value} | more), name, shown),
    )


def _hint(name: str, value: Any) -> Probe:
    def ask(server: Server) -> str:
        plain = accepted(_create(server))
        answer = _create(server, **{name: value})
        if not answer.is_success:
            return refusal(answer, name)
        return "taken" if _text(accepted(answer)) == _text(plain) else "changes the text"

    return Probe(RESPONSES, f"`{name}`", "a hint: taken, changes nothing", ask)


def _instructed(server: Server) -> str:
    alone = accepted(_create(server))["usage"]["input_tokens"]
    answer = _create(server, instructions="Say it in one word.")
    return words(answer, "instructions", lambda body: body["usage"]["input_tokens"] > alone + 10)


def _called(body: Json) -> bool:
    (call,) = (item for item in body["output"] if item["type"] == "function_call")
    return call["name"] == "weather" and isinstance(json.loads(call["arguments"])["sunny"], bool)


def _logprobs(body: Json) -> bool:
    said = body["output"][-1]["content"][0]["logprobs"]
    return [len(each["top_logprobs"]) for each in said] == [3] * 24


def _forgotten(server: Server) -> str:
    made = accepted(_create(server, store=False), "store")
    return YES if server.http.get(f"{RESPONSES}/{made['id']}").status_code == 404 else IGNORED


def _hotter(server: Server) -> str:
    plain = _text(accepted(_create(server)))
    return words(_create(server, temperature=2), "temperature", lambda body: _text(body) != plain)


_TOOL: Final = {"type": "function", "name": "weather", "strict": True, "parameters": SUNNY}

RESPONSE_PROBES: Final = (
    Probe(RESPONSES, "a response", "its text", _waiting),
    Probe(RESPONSES, "`stream`", "`sequence_number` from 0, `response.created` to the end", _streamed),
    Probe(RESPONSES, "`background`", "answered at once, found by its id when it ended", _background),
    Probe(
        RESPONSES, "`?stream=true&starting_after=`", "the same events again, from the one behind", _resumed
    ),
    Probe(RESPONSES, "`…/cancel`", "`cancelled`", _cancelled),
    Probe(RESPONSES, "deletion", "404 afterwards", _deleted),
    Probe(RESPONSES, "`…/input_items`", "the input", _items),
    Probe(RESPONSES, "`previous_response_id`", "the conversation stands in the prompt", _goes_on),
    Probe(RESPONSES, "`text.format`", "JSON that fits the schema", _fitting),
    Probe(RESPONSES, "`instructions`", "they stand in the prompt", _instructed),
    Probe(RESPONSES, "`temperature`", "another text than the greedy one", _hotter),
    _field("max_output_tokens", 5, "five tokens", lambda body: body["usage"]["output_tokens"] == 5),
    _field(
        "tool_choice",
        "required",
        "a call of the tool with fitting arguments",
        _called,
        tools=[_TOOL],
        max_output_tokens=200,
    ),
    _field(
        "include",
        ["message.output_text.logprobs"],
        "of each token, with `top_logprobs` others",
        _logprobs,
        top_logprobs=3,
    ),
    Probe(
        RESPONSES,
        "`service_tier`",
        TIERED,
        lambda server: tiered(server, lambda more: _create(server, **more)),
    ),
    *webhook_probes(RESPONSES, lambda server, webhook: _create(server, background=True, webhook=webhook)),
    Probe(RESPONSES, "`store: false`", "404 afterwards", _forgotten),
    *(
        _said_again(name, value)
        for name, value in (
            ("metadata", {"session": "42"}),
            ("parallel_tool_calls", False),
            ("user", "someone"),
            ("safety_identifier", "someone"),
            ("prompt_cache_key", "a"),
            ("truncation", "disabled"),
            ("reasoning", {"effort": "low"}),
            ("max_tool_calls", 3),
        )
    ),
    *(
        _field(name, value, "what it asks for, or 400 that names it", lambda _: False)
        for name, value in (
            ("conversation", "conv_1"),
            ("prompt", {"id": "pmpt_1"}),
            ("context_management", [{"type": "compaction"}]),
            ("moderation", {"model": "m"}),
        )
    ),
    *(
        _hint(name, value)
        for name, value in (
            ("stream_options", {"include_obfuscation": False}),
            ("prompt_cache_retention", "24h"),
            ("prompt_cache_options", {"mode": "implicit"}),
            ("background_options", {}),
            ("access_programs", []),
            ("image", {}),
        )
    ),
)
