"""What the command says of an API's refusals, and of words in the wrong place."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner

from scheduler.errors import ClientError
from tidegate.client import Client
from tidegate.command import main
from tidegate.cures import told
from tidegate.failures import ApiUnreachable
from tidegate.sse import ServerSentEvent

NOWHERE = "http://127.0.0.1:1"
GOES_ON = "job_1 goes on; `tidegate stream job_1` follows it, `tidegate cancel job_1` ends it"


@pytest.mark.parametrize(
    ("error", "sends_key", "line"),
    [
        (
            ClientError("unauthorized", "an API key is needed: send it as Authorization: Bearer KEY"),
            False,
            "unauthorized: an API key is needed: set TIDEGATE_API_KEY",
        ),
        (
            ClientError("unauthorized", "this API key expired on 2026-01-01 at 00:00 UTC"),
            True,
            "unauthorized: this API key expired on 2026-01-01 at 00:00 UTC: it is what TIDEGATE_API_KEY has",
        ),
        (
            ClientError("no_worker", "big weighs 5.0 GiB", retry_after=60, estimated_bytes=5, limit_bytes=4),
            False,
            "no_worker: big weighs 5.0 GiB; raise TIDEGATE_MEMORY_BUDGET where the worker runs, "
            "or serve a smaller model",
        ),
        (ClientError("no_worker", "none", retry_after=60), True, "no_worker: none (try again in 60 s)"),
        (ClientError("not_found", "no job job_1"), True, "not_found: no job job_1"),
    ],
)
def test_a_refusal_comes_with_what_the_user_can_do(error: ClientError, sends_key: bool, line: str) -> None:
    """The variable to set, or when to try again: not where that would change nothing."""
    assert told(error, sends_key=sends_key) == line


@pytest.mark.parametrize(
    ("words", "where"), [(("models",), "models"), (("models", "show"), "models show"), (("top",), "top")]
)
def test_an_address_behind_the_command_is_told_its_place(words: tuple[str, ...], where: str) -> None:
    """Of a command's command too; another option that there is none of is told as ever."""
    result = CliRunner().invoke(main, [*words, "--url", NOWHERE], prog_name="tidegate")
    assert result.exit_code == 2
    assert f"--url goes before the command: tidegate --url URL {where}\n" in result.stderr
    assert "No such option" in CliRunner().invoke(main, [*words, "--nope"]).stderr


def test_where_nothing_answers_another_place_can_be_named() -> None:
    """By the port's variable, or by the option."""
    with Client(NOWHERE) as client, pytest.raises(ApiUnreachable) as caught:
        client.models()
    said = str(caught.value)
    assert "`tidegate up` starts it" in said
    assert "TIDEGATE_PORT or --url" in said


@pytest.mark.parametrize("words", [("stream", "job_1"), ("submit", "hello", "--model", "m", "--stream")])
@pytest.mark.parametrize("shape", [(), ("--json",)])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_job_whose_stream_is_left_goes_on(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], shape: tuple[str, ...], signum: signal.Signals
) -> None:
    """A signal ends the command alone, which says which job that is, how to follow it and how to end it."""

    def interrupted(*_: object, **__: object) -> Iterator[ServerSentEvent]:
        yield ServerSentEvent("started", "{}", "1")
        os.kill(os.getpid(), signum)
        yield ServerSentEvent("completed", "{}", "2")

    signal_before = signal.signal(
        signum, signal.default_int_handler
    )  # whoever starts the tests may ignore it
    monkeypatch.setattr(Client, "stream", interrupted)
    monkeypatch.setattr(Client, "submit", lambda *_: {"id": "job_1"})
    try:
        result = CliRunner().invoke(main, ["--url", NOWHERE, *words, *shape])
    finally:
        signal.signal(signum, signal_before)
    assert (result.exit_code, result.stdout) == (128 + signum, "")
    assert result.stderr == f"{GOES_ON}\n"


def test_a_submitted_job_is_named_where_its_stream_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: while it is tried again, and where nothing answers the first try."""
    submit = ["--url", NOWHERE, "submit", "hello", "--model", "m", "--stream"]
    monkeypatch.setattr(Client, "submit", lambda *_: {"id": "job_1"})
    result = CliRunner().invoke(main, submit)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{GOES_ON}\nError: nothing answers at {NOWHERE}")

    def broken(*_: object, on_loss: Callable[[], None]) -> Iterator[ServerSentEvent]:
        yield ServerSentEvent("started", "{}", "1")
        on_loss()
        raise ApiUnreachable("gone; follow the job with `tidegate stream job_1`")

    monkeypatch.setattr(Client, "stream", broken)
    said = CliRunner().invoke(main, submit).stderr.splitlines()
    assert said[0] == f"connection lost; trying again; {GOES_ON}"
    assert said[1:] == ["Error: gone; follow the job with `tidegate stream job_1`"]


@pytest.mark.parametrize(
    ("terminal", "more", "hinted"), [(True, (), True), (False, (), False), (True, ("--json",), False)]
)
def test_a_person_is_told_what_an_id_is_for(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, more: tuple[str, ...], hinted: bool
) -> None:
    """On standard error, and only on a terminal: a script needs no advice."""
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    monkeypatch.setattr(Client, "submit", lambda *_: {"id": "job_1"})
    result = CliRunner().invoke(main, ["submit", "hello", "--model", "m", *more])
    assert result.stdout == ('{"id": "job_1"}\n' if more else "job_1\n")
    assert ("`tidegate stream job_1` follows it" in result.stderr) is hinted
    assert hinted or not result.stderr
