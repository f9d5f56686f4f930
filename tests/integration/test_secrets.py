"""Prompts, answers, keys and secrets stay out of logs: an API and workers at their most talkative, and all they write."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from tests.contract.receiver import Received, receiving
from tests.contract.served import COMMAND
from tests.integration.test_malice import PLAIN
from tests.keys import bearer, make_key
from tests.running import ROOT, Site, a_site
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # engines, one after another

CANARY: Final = "zanzibar"
"""In everything that a client sends; no word of any program's."""

SECRET: Final = "whsec_" + "emFuemliYXJ6YW56aWJhcnphbnppYmFyemFuemliYXI="
TOOL: Final = {"type": "function", "function": {"name": "zanzibar", "parameters": {"title": "zanzibar"}}}

PLANTED: Final = """
from api.gunicorn_conf import *
import api.gunicorn_conf, api.sse, api.jobs

def post_worker_init(worker):
    api.gunicorn_conf.post_worker_init(worker)
    app = worker.wsgi
    def broken():
        from flask import request
        raise KeyError(request.get_data(as_text=True) + request.headers.get("Authorization", ""))
    def broken_stream():
        from flask import Response, request
        words = request.get_data(as_text=True)
        def said():
            yield b"x"
            raise KeyError(words)
        return Response(said())
    app.add_url_rule("/v1/broken", view_func=broken, methods=["POST"])
    app.add_url_rule("/v1/broken-stream", view_func=broken_stream, methods=["POST"])
"""
"""The API's settings, with two routes of faults whose exceptions quote what was sent: one before its answer, one in it."""

DYING: Final = """
import sys

if "workers.engine" in sys.orig_argv:
    import os
    import workers.models

    counted = workers.models.prompt_tokens

    def dying(loaded, request):
        if "last words" not in str(request.prompt):
            return counted(loaded, request)
        try:
            raise ValueError(request.prompt)
        except ValueError:
            sys.excepthook(*sys.exc_info())
            print("thread 'x' panicked at src/lib.rs:1:2:", request.prompt, file=sys.stderr, flush=True)
            os.abort()

    workers.models.prompt_tokens = dying
"""
"""What Python runs at its start: an engine so dies of a prompt that asks for it, with the prompt in its last words."""


@dataclass
class Told:
    """What was written, by whom; and what others of the host see."""

    texts: dict[str, str]
    answers: list[str]
    received: list[Received]
    ended: dict[str, Any]
    """The error of the job that killed its engine."""


def ask(url: str, token: str, site: Site) -> list[str]:
    """Every kind of request with the canary wherever one may stand; the answers' texts."""
    said: list[str] = []
    job: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "system", "content": CANARY}, {"role": "user", "content": CANARY}],
        "max_tokens": 3,
        "stop": [CANARY],
        "metadata": {CANARY: CANARY},
        "webhook": {"url": f"https://{CANARY}.invalid/{CANARY}", "secret": SECRET},
    }
    with httpx.Client(base_url=url, timeout=60, headers=bearer(token), trust_env=False) as client:
        for path, body, more in (
            ("/v1/jobs", {"model": "tiny", "prompt": CANARY, "max_tokens": 3}, {"Prefer": "wait=50"}),
            ("/v1/jobs", job, {"Idempotency-Key": CANARY, "Prefer": "wait=50"}),
            ("/v1/jobs", job | {"tools": [TOOL], "stream": True}, {}),
            ("/v1/jobs", job | {"messages": [{"role": CANARY}]}, {}),
            ("/v1/jobs?key=" + CANARY, job | {CANARY: 1}, {}),
            ("/v1/chat/completions", {"model": CANARY, "messages": job["messages"]}, {}),
            ("/v1/responses", {"model": "tiny", "input": CANARY, "max_output_tokens": 3}, {}),
            ("/v1/broken", {"prompt": CANARY}, {}),
            ("/v1/jobs", {"model": "tiny"}, {"Authorization": f"Bearer {CANARY}"}),
            ("/v1/jobs", {"model": "tiny"}, {"Authorization": "Basic emFuemliYXI6emFuemliYXI="}),
        ):
            said.append(client.post(path, json=body, headers=more).text)
        with pytest.raises(httpx.HTTPError):
            client.post("/v1/broken-stream", json={"prompt": CANARY})
        files = {"file": (CANARY, CANARY.encode()), "purpose": (None, "batch")}
        said.append(client.post("/v1/files", files=files).text)
    host, port = url.removeprefix("http://").split(":")
    for raw in (
        f"GET /{CANARY} HTTP/1.1\r\nX {CANARY}\r\n\r\n",
        f"POST /v1/jobs HTTP/1.1\r\nHost: {CANARY}\r\nContent-Le",
    ):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(raw.encode())
            client.shutdown(socket.SHUT_WR)
            said.append(client.recv(4096).decode())
    return said


@pytest.fixture(scope="module")
def told(tiny_model: Path) -> Iterator[Told]:
    """Everything that an API, a MetalWorker and a plain worker wrote and showed while they were asked."""
    with a_site(
        {"tiny": tiny_model}, log_level="debug", webhook_secret=SECRET, webhook_allow="127.0.0.1"
    ) as site:
        token, _ = make_key(site.connection, name="ann")
        (site.folder / "conf.py").write_text(PLANTED)
        (site.folder / "sitecustomize.py").write_text(DYING)
        path = ("env", f"PYTHONPATH={ROOT}:{site.folder}")
        log = site.folder / "api.log"
        command = (*COMMAND[:3], "--config", str(site.folder / "conf.py"), "--log-level", "debug")
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            log.open("wb") as written,
            receiving() as receiver,
        ):
            fd = listener.fileno()
            process = subprocess.Popen(
                (*command, "--bind", f"fd://{fd}"),
                env=site.environment(),
                cwd=ROOT,
                pass_fds=(fd,),
                stdout=written,
                stderr=written,
            )
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            seen: list[str] = []
            try:
                with site.worker("--verbose", prefix=path) as worker:
                    wait_until(lambda: _ready(url), f"the API; see {log}", 180)
                    answers = ask(url, token, site)
                    _hooked(url, token, receiver.url)
                    wait_until(lambda: receiver.requests, "a webhook", 120)
                    killer = site.submit(f"{CANARY} last words", max_attempts=1)
                    ended = site.ended(killer).outcome
                    assert ended is not None, worker.log
                    wait_until(lambda: worker.engine_pid, "the next engine", 60)
                    seen += [_shown(pid) for pid in (process.pid, worker.process.pid)]
                    engine = psutil.Process(worker.engine_pid).environ()
                    rq = _rq_info(site)
                last = site.submit(CANARY, max_tokens=3)
                killer = site.submit(f"{CANARY} last words", max_attempts=1)
                with site.worker("--burst", "--verbose", kind=PLAIN, wait=False, prefix=path) as plain:
                    assert plain.exit_code(300) == 0, plain.log
                    assert site.text(last)
                    assert site.ended(killer).outcome is not None
                rq += _rq_info(site)
                kept = site.connection.hget(f"rq:job:{killer}", "exc_info") or b""
            finally:
                process.terminate()
                process.wait(20)
        texts = {path.name: path.read_text(errors="replace") for path in site.folder.rglob("*.log*")}
        texts |= {"processes": "\n".join(seen), "rq info": rq, "engine": str(engine)}
        texts |= {"exc_info": zlib.decompress(kept).decode() if kept else ""}
        texts = {name: text.replace(token, CANARY) for name, text in texts.items()}
        yield Told(texts, answers, receiver.requests, ended.error or {})


def _hooked(url: str, token: str, hook: str) -> None:
    body = {"model": "tiny", "prompt": CANARY, "max_tokens": 3}
    body["webhook"] = {"url": f"{hook}/{CANARY}", "secret": SECRET}
    said = httpx.post(f"{url}/v1/jobs", json=body, headers=bearer(token), timeout=60, trust_env=False)
    assert said.status_code == 202, said.text


def _rq_info(site: Site) -> str:
    """What `rq info` shows, and what RQ's tools show of each job beside."""
    command = (sys.executable, "-m", "rq.cli", "info", "--url", site.url)
    shown = subprocess.run(
        command, check=True, cwd=ROOT, env=site.environment(), capture_output=True, text=True, timeout=120
    )
    assert "standard" in shown.stdout, shown.stderr
    words = (site.connection.hget(key, "description") or b"" for key in _jobs(site))
    return shown.stdout + shown.stderr + b"\n".join(words).decode()


def _jobs(site: Site) -> list[bytes]:
    return list(site.connection.scan_iter("rq:job:*"))


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.TransportError:
        return False


def _shown(pid: int) -> str:
    """The command lines and titles of a process and all its children, which every user of the host may read."""
    shown = []
    for each in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # an engine that just ended
            shown.append(" ".join([each.name(), *each.cmdline()]))
    return "\n".join(shown)


def test_nothing_that_a_client_sent_is_written_or_shown(told: Told) -> None:
    """Not a prompt, a key, a secret, a file, an answer's words: in logs at DEBUG, titles, command lines, RQ's own."""
    assert len(told.texts) >= 6
    for name, text in told.texts.items():
        assert CANARY not in text.lower(), (
            f"{name}: …{text[max(0, text.lower().index(CANARY) - 400) :][:800]}"
        )
        assert SECRET not in text, name
        assert "emFuemliYXI" not in text, name


def test_the_faults_are_told_by_their_kind(told: Told) -> None:
    """Else the test above would have nothing to find: both exceptions are in the log, with where they were."""
    assert told.texts["api.log"].count("KeyError") >= 2
    assert "conf.py:" in told.texts["api.log"]
    assert "Error handling request: KeyError at" in told.texts["api.log"]


def test_the_requests_reached_what_they_were_for(told: Told) -> None:
    """Answers came, refusals too."""
    assert sum('"completed"' in text or '"incomplete"' in text for text in told.answers) >= 3
    assert sum("invalid_request" in text for text in told.answers) >= 3
    assert any("internal_error" in text for text in told.answers)


def test_an_engines_last_words_are_told_without_the_prompt(told: Told) -> None:
    """Its traceback and its panic quote it: their kinds and places are in the log, and nowhere else anything."""
    assert told.ended["code"] == "worker_killed"
    assert CANARY not in str(told.ended)
    logs = "".join(text for name, text in told.texts.items() if name.startswith("worker-"))
    assert logs.count("panicked at src/lib.rs:1:2") >= 2
    assert "ValueError" in logs


def test_a_webhook_was_delivered_signed_and_says_nothing_of_the_prompt(told: Told) -> None:
    """So that its secret and its URL were at hand to be logged."""
    said = told.received[0]
    assert said.path == f"/hook/{CANARY}"
    assert said.headers["webhook-signature"].startswith("v1,")
    assert CANARY not in said.body.decode()


def test_an_engine_knows_no_key(told: Told) -> None:
    """Its environment has none of the settings."""
    assert "TIDEGATE_" not in told.texts["engine"]
    assert os.environ.get("PATH", "") in told.texts["engine"]
