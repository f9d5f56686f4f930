"""Each example does what it says, as a process, as it is printed."""

from __future__ import annotations

import base64
import hmac
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.open_stack import SAMPLE, OpenStack
from tests.e2e.whole import MOST_QUEUED, WEBHOOK_SECRET
from tests.printed import ROOT
from tests.waiting import wait_until


def run(stack: OpenStack, *command: str) -> subprocess.CompletedProcess[str]:
    """Run an example, told where the API is; it must end well."""
    told = {"API": stack.url, "OPENAI_BASE_URL": f"{stack.url}/v1", "OPENAI_API_KEY": "none"}
    ran = stack.run(*command, **told)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


def test_curl_submits_waits_streams_and_cancels(open_stack: OpenStack) -> None:
    """By the events and states that the API says."""
    said = run(open_stack, "sh", "examples/curl.sh").stdout
    first, second = re.findall(r"(?:submitted|cancelled) (job_\w+)", said)
    assert '"finish_reason":"length"' in said
    assert "event: incomplete" in said and "data: [DONE]" in said
    ended = httpx.get(f"{open_stack.url}/v1/jobs/{second}?wait=30", trust_env=False).json()
    assert first != second and ended["status"] == "cancelled"


def test_curl_comes_back_when_it_is_told_to(open_stack: OpenStack) -> None:
    """A full queue costs it a while and no job: it is told when, on standard error, and ends as otherwise."""
    body = {"model": SAMPLE, "prompt": "a", "max_tokens": 1}
    with httpx.Client(base_url=open_stack.url, trust_env=False) as client:
        with open_stack.running.worker_paused() as worker:
            answers = (client.post("/v1/jobs", json=body).status_code for _ in range(2 * MOST_QUEUED))
            assert 503 in answers
            told = {"API": open_stack.url}
            process = subprocess.Popen(
                ["/bin/sh", "examples/curl.sh"],
                cwd=open_stack.folder,
                env=open_stack.environment | told,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stderr is not None
            warned = process.stderr.readline() + process.stderr.readline()
            assert "503" in warned and "retry" in warned.lower(), warned
            worker.resume()
            said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
        assert "event: incomplete" in said


def test_the_official_client_gets_all_three_answers(open_stack: OpenStack) -> None:
    """The chat's and the stream's text, and the poem that was fetched later."""
    said = run(open_stack, sys.executable, "examples/openai_client.py").stdout
    assert re.fullmatch(r"answer: .+\nstream: .+\npoem: incomplete .+\n", said, re.DOTALL), said


def test_langchain_gets_text_a_call_and_an_object(open_stack: OpenStack) -> None:
    """The call's arguments and the object are of their schemas, though the model's weights are noise."""
    said = run(open_stack, sys.executable, "examples/langchain_chat.py").stdout
    assert re.search(r"^invoke: .", said) and "\nstream: " in said
    assert re.search(r"^tool: weather \{'place': '(Paris|Rome)'\} It rains in \1\.$", said, re.MULTILINE), (
        said
    )
    assert re.search(r"^object: Capital\(city='(Paris|Rome)', sure=(True|False)\)$", said, re.MULTILINE), said


def test_the_batch_of_the_night_is_sent_once_and_fetched_once(open_stack: OpenStack, tmp_path: Path) -> None:
    """However often cron runs it; a run that was cut after the batch was made finds that batch."""
    lines = [
        {
            "custom_id": f"line-{at}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": SAMPLE,
                "max_tokens": 4,
                "messages": [{"role": "user", "content": f"{at} + {at} ="}],
            },
        }
        for at in range(3)
    ]
    asked = tmp_path / "sums.jsonl"
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = (sys.executable, "examples/nightly_batch.py", str(tmp_path))
    run(open_stack, *command)
    note = tmp_path / "sums.jsonl.state"
    state = json.loads(note.read_text())
    note.write_text(json.dumps({"file": state["file"]}))  # as if it had been cut there
    out = tmp_path / "sums.out.jsonl"
    wait_until(lambda: run(open_stack, *command) and out.exists(), "the answers are fetched", 100)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(each["custom_id"] for each in answers) == ["line-0", "line-1", "line-2"]
    assert json.loads(note.read_text())["batch"] == state["batch"]
    assert run(open_stack, *command).stdout == "sums.jsonl: was fetched\n"


@contextmanager
def receiver(stack: OpenStack) -> Iterator[tuple[str, list[str]]]:
    """The example's process, its URL, and what it has done so far."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "examples/webhook_receiver.py"],
        cwd=stack.folder,
        env=stack.environment | {"WEBHOOK_SECRET": WEBHOOK_SECRET, "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.extend(iter(process.stdout.readline, "")))  # type: ignore[union-attr]
    thread.start()
    url = f"http://127.0.0.1:{port}/told"
    try:
        wait_until(lambda: _listens(url), "the receiver", 60)
        yield url, done
    finally:
        process.kill()
        process.wait()
        thread.join()
        process.stdout.close()


def _listens(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 405
    except httpx.TransportError:
        return False


def test_the_receiver_takes_what_is_signed(open_stack: OpenStack) -> None:
    """The job's end is told to it, and done once; a forged, an old and a repeated one change nothing."""
    with receiver(open_stack) as (url, done):
        body = {"model": SAMPLE, "prompt": "a", "max_tokens": 1, "webhook": url}
        job = httpx.post(f"{open_stack.url}/v1/jobs", json=body, trust_env=False).json()["id"]
        wait_until(lambda: any(job in line for line in done), "the job's end is told", 60)
        (told,) = [line for line in done if job in line]
        assert told == f"job.incomplete {job}\n"
        now = int(time.time())
        assert _send(url, "forged", now, b'{"type": "job.completed"}', "whsec_" + "A" * 43 + "=") == 401
        assert _send(url, "old", now - 3600, b"{}", WEBHOOK_SECRET) == 401
        again = b'{"type": "job.completed", "data": {"id": "job_again"}}'
        assert [_send(url, "msg_1", now, again, WEBHOOK_SECRET) for _ in range(2)] == [204, 204]
        last = b'{"type": "job.completed", "data": {"id": "job_last"}}'
        assert _send(url, "msg_2", now, last, WEBHOOK_SECRET) == 204
        wait_until(lambda: any("job_last" in line for line in done), "the last one is done", 30)
        assert sum("job_again" in line for line in done) == 1


def _send(url: str, name: str, at: int, body: bytes, secret: str) -> int:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{name}.{at}.".encode() + body, "sha256")
    headers = {
        "webhook-id": name,
        "webhook-timestamp": str(at),
        "webhook-signature": "v1,bm90IHRoaXM= v1," + base64.b64encode(signed).decode(),
        "content-type": "application/json",
    }
    return httpx.post(url, content=body, headers=headers, trust_env=False).status_code


@pytest.mark.parametrize(
    "example", sorted(path.name for path in (ROOT / "examples").glob("*.*") if path.suffix != ".md")
)
def test_each_example_is_run_here(example: str) -> None:
    """A new one is run by a test of its own, and named in the index."""
    assert f"examples/{example}" in Path(__file__).read_text()
    assert f"({example})" in (ROOT / "examples/README.md").read_text()
