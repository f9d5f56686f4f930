"""Whatever is malformed gets one JSON error body that names the field, and nothing is enqueued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from api.errors import error_headers
from api.json_body import MAX_DEPTH, MAX_VALUES, read_object
from api.schemas import ErrorAnswer
from scheduler.errors import ClientError
from scheduler.job import PRIORITIES
from scheduler.queue import JobQueue
from tests.conftest import MODEL

JOBS = "/v1/jobs"
CHAT = "/v1/chat/completions"
CHATTING = [{"role": "user", "content": "hi"}]


UNCLEAN = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"7",
    b'"{}"',
    b'{"model": "m",}',
    b'{"temperature": NaN}',
    b'{"temperature": Infinity}',
    b'{"temperature": -Infinity}',
    b'{"temperature": 1e999}',
    b'{"seed": ' + b"9" * 5000 + b"}",
    b'{"seed": 36893488147419103232}',
    b'{"prompt": "\xff"}',
    b'{"prompt": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"prompt": "a"}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "a\\u0000b"}',
    b'{"prompt": "a\x00b"}',
    b'{"\\ud800": 1}',
    b"[" * 100_000,
    b'{"metadata": ' + b'{"a":' * 500 + b"1" + b"}" * 501,
    b'{"metadata": [' + b"1," * MAX_VALUES + b"1]}",
]


def nothing_enqueued(connection: Redis) -> bool:
    """Neither the queues nor their count has a job."""
    queue = JobQueue(connection, 600)
    return queue.waiting() == (0, 0) and queue.heads(PRIORITIES, 1) == [[], [], []]


def refused(
    client: FlaskClient, connection: Redis, url: str, body: bytes, **options: Any
) -> tuple[int, ErrorAnswer]:
    """Post a body that must be refused with the one error body, and leave no job."""
    options = {"content_type": "application/json"} | options
    answer = client.post(url, data=body, **options)
    assert answer.status_code >= 400, answer.data
    said = ErrorAnswer.model_validate(answer.json)
    assert said.error.status == answer.status_code
    assert dict(answer.headers) | error_headers(ClientError.from_body(answer.get_json()["error"])) == dict(
        answer.headers
    )
    assert nothing_enqueued(connection)
    return answer.status_code, said


@pytest.mark.parametrize("url", [JOBS, CHAT])
@pytest.mark.parametrize("body", UNCLEAN, ids=lambda body: repr(body[:40]))
def test_a_body_that_is_no_clean_json_object_is_refused(
    client: FlaskClient, connection: Redis, url: str, body: bytes
) -> None:
    """400, `invalid_request`, not retryable."""
    status, said = refused(client, connection, url, body)
    assert (status, said.error.code, said.error.retryable) == (400, "invalid_request", False)


@pytest.mark.parametrize("url", [JOBS, CHAT])
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"]
)
def test_another_content_type_is_refused(
    client: FlaskClient, connection: Redis, url: str, content_type: str
) -> None:
    """415: a browser sends these across origins without asking."""
    body = json.dumps({"model": MODEL, "prompt": "a"}).encode()
    status, said = refused(client, connection, url, body, content_type=content_type)
    assert (status, said.error.code) == (415, "unsupported_media_type")


def test_a_content_coding_is_refused(client: FlaskClient, connection: Redis) -> None:
    """415, rather than a guess at what the bytes say."""
    status, _ = refused(client, connection, JOBS, b"{}", headers={"Content-Encoding": "gzip"})
    assert status == 415


@pytest.mark.parametrize("url", [JOBS, CHAT])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 1 << 40}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": "1"}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": "5"}, "top_k"),
        ({"min_p": "0"}, "min_p"),
        ({"repetition_penalty": "1"}, "repetition_penalty"),
        ({"presence_penalty": "1"}, "presence_penalty"),
        ({"frequency_penalty": False}, "frequency_penalty"),
        ({"seed": "x"}, "seed"),
        ({"seed": "5"}, "seed"),
        ({"seed": True}, "seed"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"priority": "first"}, "priority"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"queue_timeout": 0}, "queue_timeout"),
        ({"queue_timeout": "5"}, "queue_timeout"),
        ({"run_timeout": True}, "run_timeout"),
        ({"max_attempts": "2"}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"on_insufficient_memory": "panic"}, "on_insufficient_memory"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"logit_bias": {"x": 1}}, None),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"4294967296": 1}}, "logit_bias.4294967296"),
        ({"logit_bias": {"5": "1"}}, "logit_bias.5"),
        ({"logit_bias": {"5": True}}, "logit_bias.5"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"adapters": "../a"}, "adapters"),
        ({"draft_model": "../a"}, "draft_model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages.0.content.0"),
        ({"prompt": "a"}, "prompt"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
    ],
)
def test_a_fault_in_a_field_names_it(
    client: FlaskClient, connection: Redis, url: str, fields: dict[str, Any], param: str | None
) -> None:
    """400 with `param`, dotted, by either name of the queue: numbers and truth values are JSON's."""
    body = json.dumps({"model": MODEL, "messages": CHATTING} | fields).encode()
    status, said = refused(client, connection, url, body)
    assert (status, said.error.code) == (400, "invalid_request")
    if param is not None:
        assert said.error.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"messages": CHATTING}, "prompt"),
        ({"prompt": None}, "messages"),
        ({"tools": []}, "tools"),
    ],
)
def test_what_a_job_cannot_have_is_refused_by_name(
    client: FlaskClient, connection: Redis, fields: dict[str, Any], param: str
) -> None:
    """400 with `param`: there is one input."""
    body = json.dumps({"model": MODEL, "prompt": "a"} | fields).encode()
    status, said = refused(client, connection, JOBS, body)
    assert (status, said.error.code, said.error.param) == (400, "invalid_request", param)


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize("url", [JOBS, CHAT])
@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages: at least one message is needed"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}],
            "messages.0.content.1.type: only text parts are taken",
        ),
    ],
)
def test_messages_are_refused_in_plain_words(
    client: FlaskClient, connection: Redis, url: str, messages: list[Any], message: str
) -> None:
    """The same by either name of the queue."""
    _, said = refused(client, connection, url, json.dumps({"model": MODEL, "messages": messages}).encode())
    assert (said.error.message, said.error.param) == (message, message.partition(":")[0])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"n": "1"}, "n"),
        ({"n": True}, "n"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "wish"}},
                }
            },
            "response_format",
        ),
        ({"tool_choice": "required", "tools": [{"type": "function"}]}, "tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": "2"}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 0, "max_completion_tokens": 1}, "max_tokens"),
        ({"functions": []}, "functions"),
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_a_chat_cannot_have_is_refused_by_name(
    client: FlaskClient, connection: Redis, fields: dict[str, Any], param: str | None
) -> None:
    """400 with the field's name in OpenAI's request, rather than an answer to another question."""
    body = json.dumps({"model": MODEL, "messages": CHATTING} | fields).encode()
    status, said = refused(client, connection, CHAT, body)
    assert (status, said.error.code) == (400, "invalid_request")
    if param is not None:
        assert said.error.param == param


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("after=nonsense", "after"),
        ("status=happy", "status"),
        ("priority=first", "priority"),
        ("unheard_of=1", "unheard_of"),
    ],
)
def test_a_fault_in_a_query_names_it(client: FlaskClient, connection: Redis, query: str, param: str) -> None:
    """400 with `param`, for the list of jobs."""
    answer = client.get(f"{JOBS}?{query}")
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)


def test_a_query_that_is_no_utf_8_is_refused(client: FlaskClient, connection: Redis) -> None:
    """400, by the whole of it: nobody can say which field."""
    answer = client.get("/v1/jobs", environ_overrides={"QUERY_STRING": "status=\xe5e"})
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "invalid_request")


def test_capacity_has_no_query(client: FlaskClient, connection: Redis) -> None:
    """400, as everywhere: a filter that is not heard must not look like one that is."""
    answer = client.get("/v1/capacity?x=1")
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "x")


@pytest.mark.parametrize("wait", ["-1", "61", "x", "NaN", "inf"])
def test_a_wait_out_of_range_is_refused(client: FlaskClient, connection: Redis, wait: str) -> None:
    """400, naming `wait`."""
    answer = client.get(f"{JOBS}/job_00000000000000000000000000?wait={wait}")
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "wait")


@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_an_object_or_a_client_error(body: bytes) -> None:
    """Reading a body has two outcomes."""
    try:
        read = read_object(body)
    except ClientError as error:
        read = {"refused": error.code}
    assert isinstance(read, dict)
    assert read.get("refused", "invalid_request") == "invalid_request"


@pytest.mark.parametrize("body", UNCLEAN, ids=lambda body: repr(body[:40]))
def test_what_is_unclean_is_refused_wherever_it_stands(body: bytes) -> None:
    """Before any field is looked at: a field that takes anything must not let it through."""
    with pytest.raises(ClientError):
        read_object(body)


def test_depth_and_size_have_sharp_limits() -> None:
    """One level or one value less is taken."""
    assert read_object(b'{"a":' * (MAX_DEPTH - 1) + b"{}" + b"}" * (MAX_DEPTH - 1))
    with pytest.raises(ClientError):
        read_object(b'{"a":' * MAX_DEPTH + b"{}" + b"}" * MAX_DEPTH)
    assert read_object(b'{"a": [' + b"1," * (MAX_VALUES - 2) + b"1]}")
    with pytest.raises(ClientError):
        read_object(b'{"a": [' + b"1," * (MAX_VALUES - 1) + b"1]}")


@pytest.mark.parametrize(
    ("text", "number"),
    [("8.0", 8), ("8e0", 8), ("-0.0", 0), ("8.5", 8.5), ("1e300", 1e300), ("5e-324", 5e-324)],
)
def test_a_whole_number_is_an_integer_however_it_is_written(text: str, number: float) -> None:
    """JSON Schema says so; large ones stay what they are as floats."""
    read = read_object(f'{{"a": {text}}}'.encode())["a"]
    assert (read, type(read)) == (number, type(number))


def test_ordinary_text_passes() -> None:
    """Emoji as a pair of surrogates, line separators and right-to-left text are text."""
    assert read_object(b'{"prompt": "\\ud83d\\ude00 \\u2028 \xd7\xa9"}') == {"prompt": "😀 \u2028 ש"}
