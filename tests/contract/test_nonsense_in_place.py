"""Every place of every request's body, with values of every kind in it: an answer of the contract, never a bug of ours."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

import pytest
from flask.testing import FlaskClient

from api.schemas import ErrorAnswer
from scheduler.errors import TABLE
from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker

NOTHING: Final = object()
VALUES: Final = (
    NOTHING,
    None,
    True,
    -1,
    0.5,
    1 << 62,
    "",
    "a",
    [],
    [[]],
    [{}],
    {},
    {"type": [[]]},
    {"a": {"b": []}},
)

_PARAMETERS: Final = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
_TOOL: Final = {"type": "function", "function": {"name": "f", "description": "d", "parameters": _PARAMETERS}}
_CALL: Final = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_SCHEMA: Final = {"name": "n", "strict": True, "schema": _PARAMETERS}
_HOOK: Final = {"url": "https://a.example/", "secret": "whsec_" + "QUFB" * 11}
_SAID: Final = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]}

ASKED: Final[dict[str, dict[str, Any]]] = {
    "/v1/jobs": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": "u"}],
        "max_tokens": 4,
        "stop": ["x"],
        "metadata": {"a": "b"},
        "seed": 5,
        "logit_bias": {"5": 1.0},
        "logprobs": 2,
        "priority": "batch",
        "queue_timeout": 5,
        "temperature": 0.5,
        "tools": [_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": _SCHEMA},
        "on_insufficient_memory": "wait",
        "webhook": _HOOK,
    },
    "/v1/chat/completions": {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        "n": 2,
        "tools": [_TOOL],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "json_schema", "json_schema": _SCHEMA},
        "logprobs": True,
        "top_logprobs": 2,
        "service_tier": "flex",
        "metadata": {"a": "b"},
        "modalities": ["text"],
    },
    "/v1/completions": {
        "prompt": ["a", "b"],
        "echo": False,
        "logprobs": 1,
        "best_of": 1,
        "suffix": None,
        "stop": "x",
        "stream_options": None,
    },
    "/v1/responses": {
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            _SAID,
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}], "content": []},
        ],
        "instructions": "b",
        "previous_response_id": None,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "tools": [{"type": "function", "name": "f", "parameters": _PARAMETERS, "strict": True}],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "f"}],
        },
        "text": {"format": {"type": "json_schema", **_SCHEMA}, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "truncation": "auto",
        "context_management": [],
        "webhook": _HOOK,
    },
    "/v1/batches": {
        "input_file_id": "file-01k00000000000000000000000",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"a": "b"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    },
}
"""A request of each route, with all the places that are read."""


def places(value: Any) -> Iterator[tuple[str | int, ...]]:
    """The way to every value within."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inside:
        yield (name,)
        yield from ((name, *rest) for rest in places(each))


def with_value(body: dict[str, Any], place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy of a body with another value there, or without it."""
    copied = deepcopy(body)
    inside: Any = copied
    for name in place[:-1]:
        inside = inside[name]
    if value is NOTHING:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return copied


@pytest.mark.timeout(180)
@pytest.mark.parametrize("route", ASKED)
def test_no_value_in_no_place_is_a_bug(client: FlaskClient, worker: PretendWorker, route: str) -> None:
    """It is taken, or refused by the contract's error; the request as it stands is well formed."""
    body = ASKED[route] if route == "/v1/batches" else {"model": MODEL, **ASKED[route]}
    worker.report(lease_seconds=600)
    with worker.answering():
        whole = client.post(route, json=body)
        assert whole.status_code < 400 or whole.json["error"]["code"] == "not_found", whole.json  # type: ignore[index]
        whole.close()
        for place in places(body):
            for value in VALUES:
                with client.post(route, json=with_value(body, place, value)) as answer:
                    told = answer.get_data()
                if answer.status_code < 400:
                    continue
                error = ErrorAnswer.model_validate_json(told).error
                assert error.code in TABLE and error.status == answer.status_code
                assert error.status < 500 or error.code in {"queue_full", "no_worker"}, (place, value, error)
