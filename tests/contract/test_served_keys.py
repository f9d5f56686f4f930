"""API keys under gunicorn, with the official client and the `tidegate` command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from scheduler.keyring import FRESH_SECONDS
from tests.conftest import MODEL
from tests.contract.served import COMMAND
from tests.keys import make_key
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until
from tidegate.command import main

BEYOND = """
from api.gunicorn_conf import *
from types import SimpleNamespace
import api.gunicorn_conf

def post_worker_init(worker):
    elsewhere = SimpleNamespace(getsockname=lambda: ("192.0.2.1", 8400))
    api.gunicorn_conf.post_worker_init(SimpleNamespace(wsgi=worker.wsgi, sockets=[elsewhere]))
"""
"""gunicorn's settings as if it listened on an address that is not this machine's; tests listen on loopback alone."""


def sdk(url: str, token: str) -> openai.OpenAI:
    """The official client with a key; it tries once."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0, timeout=20)


def chat(client: openai.OpenAI, text: str = "a b", **more: Any) -> str:
    """A question and its answer."""
    said = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)
    return str(said.choices[0].message.content)


def known(url: str, token: str) -> None:
    """Wait until the server has read a key; the tests share one server, which may have read those before."""

    def works() -> bool:
        with sdk(url, token) as client:
            try:
                client.models.list()
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                return False
            return True

    wait_until(works, "the key is known", 3 + FRESH_SECONDS)


def test_errors_are_those_that_the_official_client_names(
    url: str, connection: Redis, worker: PretendWorker
) -> None:
    """Authentication, permission, rate limit, not found: by class, code and what a retry is told."""
    (token, _), (batch, _) = (
        make_key(connection, tokens_per_minute=100),
        make_key(connection, priorities=("batch",)),
    )
    known(url, token)
    with worker.answering(), sdk(url, token) as ann, sdk(url, "tg-wrong") as nobody, sdk(url, batch) as late:
        assert chat(ann, max_tokens=4) == "a b "
        with pytest.raises(openai.AuthenticationError) as unknown:
            chat(nobody)
        assert (unknown.value.code, unknown.value.status_code) == ("unauthorized", 401)
        assert unknown.value.response.headers["WWW-Authenticate"] == "Bearer"
        with pytest.raises(openai.PermissionDeniedError) as forbidden:
            chat(late)
        assert (forbidden.value.code, forbidden.value.param) == ("forbidden", "priority")
        with pytest.raises(openai.RateLimitError) as limited:
            chat(ann, max_tokens=10)
        assert limited.value.code == "rate_limit_exceeded"
        assert 1 <= int(limited.value.response.headers["Retry-After"]) <= 60
        assert limited.value.response.headers["x-ratelimit-limit-tokens"] == "100"
        with pytest.raises(openai.NotFoundError):
            ann.models.retrieve("another")


def test_the_official_client_comes_back_when_it_is_told_to(
    url: str, connection: Redis, worker: PretendWorker
) -> None:
    """One refusal, one retry, after as long as the header said: so the header was true."""
    token, _ = make_key(connection, tokens_per_minute=1200)  # twenty a second
    known(url, token)
    with worker.answering(), sdk(url, token) as client:
        chat(client, max_tokens=1100)
        began = time.monotonic()
        assert chat(client.with_options(max_retries=1), max_tokens=20) == "a b "
        assert time.monotonic() - began >= 0.5


def tidegate(url: str, *words: str, **environment: str) -> Result:
    """Run the command."""
    return CliRunner(env=environment).invoke(main, ["--url", url, *words])


def test_the_command_sends_its_key(url: str, connection: Redis, worker: PretendWorker) -> None:
    """Submit, stream, list, cancel, models; without one it is told what is wanted."""
    token, _ = make_key(connection)
    known(url, token)
    failed = tidegate(url, "jobs")
    assert failed.exit_code == 1
    assert failed.output == "Error: unauthorized: an API key is needed: set TIDEGATE_API_KEY\n"
    wrong = tidegate(url, "jobs", TIDEGATE_API_KEY="tg-wrong").output
    assert wrong == "Error: unauthorized: this API key is not known here: it is what TIDEGATE_API_KEY has\n"
    with worker.answering():
        job_id = tidegate(url, "submit", "a b", TIDEGATE_API_KEY=token).output.strip()
        assert "a b" in tidegate(url, "stream", job_id, TIDEGATE_API_KEY=token).output
    for words in (["jobs"], ["cancel", job_id], ["models"], ["models", "show"]):
        assert tidegate(url, *words, TIDEGATE_API_KEY=token).exit_code == 0, words


def start_beyond(valkey_url: str, folder: Path, **more: str) -> subprocess.Popen[bytes]:
    """Start gunicorn as if it listened elsewhere."""
    (folder / "conf.py").write_text(BEYOND)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment |= {"TIDEGATE_REDIS_URL": valkey_url, "TIDEGATE_MODELS": MODEL} | more
    command = (*COMMAND[:3], "--config", str(folder / "conf.py"), "--bind", "127.0.0.1:0")
    assert command[0] == sys.executable
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_it_does_not_listen_beyond_loopback_without_keys(
    valkey_url: str, tmp_path: Path, connection: Redis
) -> None:
    """The server ends, says why and how a key is made, and shows no traceback."""
    process = start_beyond(valkey_url, tmp_path)
    said = process.communicate(timeout=30)[0].decode()
    assert process.returncode not in {0, None}
    assert "`tidegate keys add`" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("allowed_by", ["a key", "the operator"])
def test_it_does_where_there_is_a_key_or_the_operator_says_so(
    valkey_url: str, tmp_path: Path, connection: Redis, allowed_by: str
) -> None:
    """It starts, and stays."""
    if allowed_by == "a key":
        make_key(connection)
    process = start_beyond(
        valkey_url, tmp_path, **({"TIDEGATE_OPEN": "true"} if allowed_by == "the operator" else {})
    )
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, b"")
        assert any(b"Booting worker" in line for line in lines)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
    finally:
        process.terminate()
        process.communicate(timeout=15)
