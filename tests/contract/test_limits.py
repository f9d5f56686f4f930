"""The limits that SECURITY.md names: each is what the code has, and one step beyond it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api import gunicorn_conf, http_worker, json_body, webhook_post, webhook_sender
from api.completion_request import MAX_PROMPTS
from api.jobs import MAX_WAIT_SECONDS
from api.openai_request import MAX_CHOICES
from scheduler.answer_form import MAX_SCHEMA_BYTES
from scheduler.batch_lines import LINES_MOST
from scheduler.batches import ACTIVE_MOST, OWNER_ACTIVE_MOST
from scheduler.request import MAX_TEXT_BYTES
from scheduler.settings import Settings
from tests.conftest import MODEL

TABLE: Final = (Path(__file__).parents[2] / "SECURITY.md").read_text().partition("## Limits")[2]
DEFAULTS: Final = {name: field.default for name, field in Settings.model_fields.items()}

SAID: Final = (
    f"| a request line; a header; headers | {gunicorn_conf.limit_request_line:,} bytes",
    f"streams and waits among them | {gunicorn_conf.worker_connections:,}; {DEFAULTS['max_open_per_key']:,} |",
    f"{DEFAULTS['max_body_bytes'] >> 20} MiB; {json_body.MAX_DEPTH} levels; {json_body.MAX_VALUES:,} values",
    f"| {MAX_TEXT_BYTES >> 20} MiB; 4,096 messages; 256 tools |",
    f"| a JSON schema | {MAX_SCHEMA_BYTES >> 10} KiB |",
    f"| {MAX_CHOICES}; {MAX_PROMPTS}; {1 << 20:,} |",
    f"| a wait | {MAX_WAIT_SECONDS} s |",
    f"| {DEFAULTS['max_file_bytes'] >> 20} MiB and 16 parts; as kept; {DEFAULTS['max_files_bytes'] >> 20} MiB |",
    f"| {LINES_MOST:,}; {OWNER_ACTIVE_MOST}; {ACTIVE_MOST:,} |",
    f"| {DEFAULTS['max_queued_jobs']:,}; {DEFAULTS['max_queued_tokens']:,}; less by key |",
    f"| {webhook_post.POST_SECONDS:.0f} s, {webhook_post._BODY_BYTES >> 10} KiB of its answer, "
    f"{webhook_sender.SENDING_MOST} at once, {webhook_sender.HOST_MOST} to a host |",
    f"| {http_worker._UNREAD_MOST_BYTES >> 20} MiB, then the connection is closed |",
)


@pytest.mark.parametrize("words", SAID)
def test_the_limits_that_are_told_are_those_of_the_code(words: str) -> None:
    """Number by number."""
    assert words in TABLE


SAYS: Final = {"role": "user", "content": "a"}
BEYOND: Final[dict[str, dict[str, Any]]] = {
    "model": {"model": "x" * 257, "prompt": "a"},
    "messages": {"messages": [SAYS] * 4097},
    "prompt": {"prompt": "x" * (MAX_TEXT_BYTES + 1)},
    "tools": {"messages": [SAYS], "tools": [{"type": "function", "function": {"name": "f"}}] * 257},
    "stop": {"prompt": "a", "stop": ["x"] * 17},
    "stop.0": {"prompt": "a", "stop": ["x" * 257]},
    "metadata": {"prompt": "a", "metadata": {str(at): "x" for at in range(17)}},
    "logit_bias": {"prompt": "a", "logit_bias": {str(at): 1 for at in range(1025)}},
    "max_tokens": {"prompt": "a", "max_tokens": (1 << 20) + 1},
    "webhook": {"prompt": "a", "webhook": "https://a.example/" + "x" * 2048},
    "response_format": {
        "prompt": "a",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"title": "x" * MAX_SCHEMA_BYTES}},
        },
    },
}


@pytest.mark.parametrize("field", BEYOND)
def test_one_beyond_is_refused_by_name(client: FlaskClient, connection: Redis, field: str) -> None:
    """400, at once; no job is made."""
    said = client.post("/v1/jobs", json={"model": MODEL} | BEYOND[field])
    error = said.get_json()["error"]
    assert (said.status_code, error["code"]) == (400, "invalid_request"), said.text[:300]
    assert error["param"].startswith(field.partition(".")[0])
    assert connection.dbsize() == 0


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_has_a_length(client: FlaskClient, connection: Redis, key: str) -> None:
    """Of 1 to 255 characters."""
    said = client.post("/v1/jobs", json={"model": MODEL, "prompt": "a"}, headers={"Idempotency-Key": key})
    assert said.status_code == 400
