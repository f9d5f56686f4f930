"""How the command shows answers and failures: on a terminal, in a pipe, as JSON, and by its exit status."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
import threading
from typing import Any, Final

import httpx
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from tests.conftest import MODEL
from tests.pretend_worker import PretendWorker
from tests.waiting import wait_until
from tidegate.command import main

ESCAPE: Final = b"\x1b"


@pytest.fixture
def live(connection: Redis, worker: PretendWorker, url: str) -> PretendWorker:
    """A worker that the API knows of."""
    wait_until(lambda: httpx.get(f"{url}/v1/capacity").json()["workers"], "the worker is known")
    return worker


def tidegate(url: str, *words: str, **options: Any) -> Result:
    """Run the command; nothing is a terminal."""
    return CliRunner().invoke(main, ["--url", url, *words], **options)


class Screen:
    """The command on a terminal of 60 columns, and all that it writes there."""

    def __init__(self, url: str, *words: str, piped: bool = False, **variables: str) -> None:
        self.seen = b""
        self._hands, program = pty.openpty()
        termios.tcsetwinsize(program, (24, 60))
        own = {
            name: value
            for name, value in os.environ.items()
            if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tidegate", "--url", url, *words],
            stdin=program,
            stdout=subprocess.PIPE if piped else program,
            stderr=program,
            env=own | {"TERM": "xterm-256color"} | variables,
        )
        os.close(program)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._hands, 4096)
            except OSError:
                return
            if not piece:
                return
            self.seen += piece

    def shows(self, words: bytes) -> None:
        """Wait until it was written."""
        wait_until(lambda: words in self.seen, f"{words!r} in {self.seen!r}", 60)

    def ended(self) -> tuple[int, bytes]:
        """Its exit status, and what it wrote to a pipe."""
        try:
            out, _ = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        self._reader.join(10)
        os.close(self._hands)
        return self.process.returncode, out or b""


def test_on_a_terminal_it_is_told_what_is_waited_for(url: str, live: PretendWorker) -> None:
    """The place, the loading, the reading of the prompt; then the answer, and what it took. Each is gone when the next is there."""
    screen = Screen(url, "submit", "--stream", "hello")
    screen.shows(b"waiting: place 1")
    live.report(engine=f"measuring {MODEL}", cards={})
    screen.shows(f"measuring {MODEL}: a minute or two".encode())
    live.report()
    held = live.claim()
    screen.shows(b"reading the prompt")
    live.say(held, "one two")
    screen.shows(b"one two")
    live.complete(held, "one two")
    status, _ = screen.ended()
    assert status == 0
    _, answer, after = screen.seen.partition(b"one two\r\n")
    assert answer and b"completed, 3 tokens, " in after and b"first token after " in after
    assert b"reading" not in after


def test_a_pipe_gets_the_answer_alone(url: str, live: PretendWorker) -> None:
    """Though somebody sits at a terminal and is told what is waited for: nothing of that is in it."""
    screen = Screen(url, "submit", "--stream", "a\tb   c", piped=True)
    screen.shows(b"waiting: place 1")
    held = live.claim()
    live.say(held, "\x1b[31ma\tb" + " word" * 40)
    live.complete(held, "x")
    status, out = screen.ended()
    assert (status, out) == (0, b"\x1b[31ma\tb" + b" word" * 40 + b"\n"), "as the model wrote it"
    assert b"completed, 3 tokens" in screen.seen


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colours_gets_none(
    url: str, live: PretendWorker, variables: dict[str, str]
) -> None:
    """``NO_COLOR`` takes colours; a dumb terminal gets no escape at all, and one frame instead of a live picture."""
    screen = Screen(url, "top", *(() if "TERM" in variables else ("--once",)), **variables)
    status, _ = screen.ended()
    assert status == 0 and b"worker pretend" in screen.seen
    if "TERM" in variables:
        assert ESCAPE not in screen.seen
    else:
        assert not any(b"\x1b[%dm" % code in screen.seen for code in (*range(30, 38), *range(90, 98)))


PIPED: Final = (
    ("submit", "hello"),
    ("submit", "--stream", "hello"),
    ("submit", "--wait", "hello"),
    ("jobs",),
    ("top",),
    ("models",),
    ("models", "show"),
    ("doctor",),
)


@pytest.mark.parametrize("words", PIPED, ids=" ".join)
def test_what_is_piped_is_plain(
    url: str, live: PretendWorker, valkey_url: str, words: tuple[str, ...]
) -> None:
    """No colours, no cursor's codes, whatever the environment asks for."""
    variables = {
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
        "COLUMNS": "40",
        "TIDEGATE_REDIS_URL": valkey_url,
    }
    with live.answering():
        result = tidegate(url, *words, env=variables)
    assert result.stdout_bytes and ESCAPE not in result.stdout_bytes + result.stderr_bytes


def test_nothing_is_wrapped_in_a_pipe(url: str, live: PretendWorker) -> None:
    """A job, a model, a figure of a card are a line each, however narrow a terminal is said to be."""
    live.report(cards={MODEL: live.report().cards[MODEL] | {"device": "d" * 200}})
    wait_until(lambda: "ddd" in tidegate(url, "models", "show", env={"COLUMNS": "40"}).stdout, "it is known")
    shown = tidegate(url, "models", "show", env={"COLUMNS": "40"}).stdout
    assert any(line.split() == ["measured", "on", "d" * 200] for line in shown.splitlines())


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("submit", "--stream", "hello"), 0, None),
        (("submit", "--wait", "hello"), 0, None),
        (("submit", "--stream", "fail"), 4, "insufficient_memory"),
        (("submit", "--wait", "fail"), 4, "insufficient_memory"),
        (("submit", "--wait", "hello", "--model", "nobody's"), 1, "model_not_found"),
        (("submit", "hello", "--max-tokens", "1000000"), 3, "memory_never_fits"),
        (("stream", "job_01m8cvxgkp071nxsrjy1q7fs2t"), 1, "not_found"),
    ],
)
def test_the_exit_status_tells_what_became_of_it(
    url: str, live: PretendWorker, words: tuple[str, ...], status: int, code: str | None
) -> None:
    """Answered, failed, never, not now: apart, in words for people, and in JSON with the numbers."""
    if status == 3:
        live.report(budget_bytes=4 << 20)
        wait_until(
            lambda: httpx.get(f"{url}/v1/capacity").json()["workers"][0]["budget_bytes"] == 4 << 20, "it is"
        )
    with live.answering():
        plain, as_json = tidegate(url, *words), tidegate(url, *words, "--json")
    assert (plain.exit_code, as_json.exit_code) == (status, status)
    *_, last = map(json.loads, as_json.stdout.splitlines())
    error = (last.get("data") or last)["error"]
    assert (error and error["code"]) == code
    if code:
        assert plain.stderr.splitlines()[-1].startswith(f"Error: {code}: ")
        assert plain.stdout == ""
    if status == 4:
        assert error["retry_after"] == 1 and "(try again in 1 s)" in plain.stderr
    if status == 3:
        assert error["estimated_bytes"] > error["limit_bytes"] > 0
        assert "MiB" in plain.stderr


def test_a_cancelled_job_is_neither_answered_nor_failed(url: str, live: PretendWorker) -> None:
    """Whoever cancelled it."""
    with live.answering():
        job_id = tidegate(url, "submit", "stall").stdout.strip()
        tidegate(url, "cancel", job_id)
        plain, as_json = tidegate(url, "stream", job_id), tidegate(url, "stream", job_id, "--json")
    assert (plain.exit_code, as_json.exit_code) == (5, 5)
    assert plain.stderr.endswith(f"Error: {job_id} was cancelled\n")
    assert json.loads(as_json.stdout.splitlines()[-1])["data"]["status"] == "cancelled"


def test_a_stream_as_json_is_an_event_a_line(url: str, live: PretendWorker) -> None:
    """Under the same three names; the last one's data is the job. With --wait it is the job alone."""
    with live.answering():
        streamed = tidegate(url, "submit", "--stream", "--json", "one two").stdout
        waited = tidegate(url, "submit", "--wait", "--json", "one two").stdout
        whole = tidegate(url, "submit", "--wait", "one two").stdout
    events = [json.loads(line) for line in streamed.splitlines()]
    assert {tuple(event) for event in events} == {("event", "id", "data")}
    assert [event["event"] for event in events] == ["queued", "started", "delta", "delta", "completed"]
    assert [event["id"] for event in events] == ["1", "2", "3", "4", "5"]
    assert events[-1]["data"]["result"]["text"] == json.loads(waited)["result"]["text"] == "one two "
    assert whole == "one two \n"


def test_a_prompt_that_is_not_given_is_read(url: str, live: PretendWorker) -> None:
    """From a pipe; at a terminal, where nobody knows that it is waited for, it is asked for."""
    with live.answering():
        assert tidegate(url, "submit", "--wait", input="naïve words\n".encode()).stdout == "naïve words \n"
    screen = Screen(url, "submit")
    status, _ = screen.ended()
    assert status == 2 and b"Missing argument" in screen.seen


def test_what_fails_before_the_api_is_json_too() -> None:
    """With the name of what went wrong, for the command's own failures."""
    result = tidegate("http://127.0.0.1:1", "jobs", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "api_unreachable"
    assert result.stderr == f"Error: {error['message']}\n"
