"""What is asked of `/v1/chat/completions` and `/v1/completions` alike, field by field.

The model's weights are random and it never stops by itself, a token of it is a byte: so what a field did shows in the
text. Greedy text is the measure: what ought to change it must, and what narrows the choice to one must lead to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import httpx

from benchmarks.probing import (
    IGNORED,
    YES,
    Json,
    Probe,
    Server,
    Shown,
    accepted,
    chunks,
    streamed,
    words,
)

CHAT: Final = "/v1/chat/completions"
SAID: Final = [{"role": "user", "content": "Say something."}]
_GREEDY: Final = {"temperature": 0, "max_tokens": 24}


def post(server: Server, route: str, fields: Json) -> httpx.Response:
    """An ordinary request of a route, with fields over it."""
    text = {"messages": SAID} if route == CHAT else {"prompt": "Say something."}
    return server.http.post(route, json={"model": server.model} | text | _GREEDY | fields)


def text_of(body: Json) -> str:
    """The text of an answer's first choice."""
    choice = body["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def usual(server: Server, route: str) -> Json:
    """The greedy answer without any other field."""
    if route not in server.remembered:
        server.remembered[route] = accepted(post(server, route, {}))
    found: Json = server.remembered[route]
    return found


def field(name: str, value: Any, right: str, shown: Shown, **more: Any) -> Callable[[str], Probe]:
    """A field of a request, and what its answer must show."""

    def on(route: str) -> Probe:
        return Probe(
            route,
            f"`{name}`",
            right,
            lambda server: words(post(server, route, {name: value} | more), name, shown),
        )

    return on


def against(
    name: str, value: Any, right: str, shown: Callable[[str, str], bool], **more: Any
) -> Callable[[str], Probe]:
    """A field whose effect shows beside the usual answer's text."""

    def on(route: str) -> Probe:
        def ask(server: Server) -> str:
            plain = text_of(usual(server, route))
            answer = post(server, route, {name: value} | more)
            return words(answer, name, lambda body: shown(text_of(body), plain))

        return Probe(route, f"`{name}`", right, ask)

    return on


def _stop(route: str) -> Probe:
    def ask(server: Server) -> str:
        plain = text_of(usual(server, route))
        mark = plain[8:11]
        answer = post(server, route, {"stop": [mark]})
        before = plain[: plain.index(mark)]
        return words(
            answer,
            "stop",
            lambda body: text_of(body) == before and body["choices"][0]["finish_reason"] == "stop",
        )

    return Probe(route, "`stop`", "the text ends before it, `finish_reason` is `stop`", ask)


def _seed(route: str) -> Probe:
    def ask(server: Server) -> str:
        one, again, other = (
            text_of(accepted(post(server, route, {"temperature": 1, "seed": seed}), "seed"))
            for seed in (5, 5, 6)
        )
        return YES if one == again != other else IGNORED

    return Probe(route, "`seed`", "the same text again, another with another seed", ask)


def _stream(route: str) -> Probe:
    def ask(server: Server) -> str:
        with streamed(server, "POST", route, "stream", json=_streaming(server, route)) as answer:
            said = chunks(answer)
        return YES if len([chunk for chunk in said if chunk["choices"]]) > 1 else IGNORED

    return Probe(route, "`stream`", "chunks, then `[DONE]`", ask)


def _usage(route: str) -> Probe:
    def ask(server: Server) -> str:
        body = _streaming(server, route) | {"stream_options": {"include_usage": True}}
        with streamed(server, "POST", route, "stream_options", json=body) as answer:
            said = chunks(answer)
        last = said[-1] if said else {}
        usage = last.get("usage") or {}
        return YES if last.get("choices") == [] and usage.get("completion_tokens") == 24 else IGNORED

    return Probe(route, "`stream_options.include_usage`", "the last chunk has no choice and the usage", ask)


def _streaming(server: Server, route: str) -> Json:
    text = {"messages": SAID} if route == CHAT else {"prompt": "Say something."}
    return {"model": server.model, "stream": True} | text | _GREEDY


def _other(text: str, plain: str) -> bool:
    return text != plain


def _same(text: str, plain: str) -> bool:
    return text == plain


def five_tokens(body: Json) -> bool:
    """Whether an answer has so many."""
    return bool(body["usage"]["completion_tokens"] == 5)


BOTH: Final = (
    field("max_tokens", 5, "five tokens", five_tokens),
    against("temperature", 2, "another text than the greedy one", _other, seed=1),
    against("top_p", 1e-6, "the greedy text at temperature 1", _same, temperature=1),
    against("top_k", 1, "the greedy text at temperature 1", _same, temperature=1),
    against("min_p", 1, "the greedy text at temperature 1", _same, temperature=1),
    against("repetition_penalty", 10, "another text than the greedy one", _other),
    against("presence_penalty", 2, "another text than the greedy one", _other),
    against("frequency_penalty", 2, "another text than the greedy one", _other),
    field("logit_bias", {"65": 100}, "nothing but the letter", lambda body: {*text_of(body)} == {"A"}),
    field("n", 2, "two choices", lambda body: len(body["choices"]) == 2),
    _stop,
    _seed,
    _stream,
    _usage,
)
"""Fields of both routes."""
