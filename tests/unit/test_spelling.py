"""Variables that look like settings and are none."""

from __future__ import annotations

import pytest
import structlog
from click.testing import CliRunner

from scheduler import process_log
from scheduler.errors import ClientError
from scheduler.request import read_request
from scheduler.settings import Settings, load
from scheduler.spelling import complaints, meant, unread
from tidegate.command import main


def test_every_setting_is_one() -> None:
    """In capitals or not, as they are read."""
    names = [f"TIDEGATE_{name.upper()}" for name in Settings.model_fields]
    assert unread([*names, *map(str.lower, names)]) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TIDEGATE_MODLES", "TIDEGATE_MODELS"),
        ("TIDEGATE_MODEL", "TIDEGATE_MODELS"),
        ("tidegate_hots", "TIDEGATE_HOST"),
        ("TIDEGATE_MEMORYBUDGET", "TIDEGATE_MEMORY_BUDGET"),
        ("TIDEGATE_FOO", None),
        ("TIDEGATE_API_PORT", None),
    ],
)
def test_a_misspelt_one_is_told_with_what_is_meant(name: str, meant: str | None) -> None:
    """Where any setting is like it."""
    assert unread([name]) == {name: meant}
    assert complaints([name]) == [f"{name} is no setting" + (f"; is {meant} meant?" if meant else "")]


def test_a_word_that_is_far_too_long_is_like_none() -> None:
    """It is not compared: the known word's letters are all in it."""
    assert meant("temprature", ["top_p", "temperature"]) == "temperature"
    assert meant("x" * 65, ["x" * 64]) is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"temprature": 1}, "temprature: there is no such field; is temperature meant?"),
        ({"frobnicate": 1}, "frobnicate: there is no such field"),
        ({"n[]": 1}, "n[]: there is no such field"),
        ({"str": 1}, "str: there is no such field"),
        ({"webhook": {"url": "https://a.example", "model": "m"}}, "webhook.model: there is no such field"),
    ],
)
def test_a_misspelt_field_of_a_request_is_told_with_what_is_meant(
    extra: dict[str, object], message: str
) -> None:
    """Where any field is like it; what is inside another is not taken for a field of the request."""
    with pytest.raises(ClientError) as caught:
        read_request({"model": "m", "prompt": "a"} | extra)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "MYTIDEGATE_MODLES",
        "TIDEGATE",
        "TIDEGATE_SERVICE_HOST",
        "TIDEGATE_API_SERVICE_PORT_HTTP",
        "TIDEGATE_PORT_8400_TCP_ADDR",
        "TIDEGATE_SAMPLE_MODELS",
    ],
)
def test_others_variables_are_no_mistakes(name: str) -> None:
    """Another program's, those that Kubernetes sets for a service of that name, the tests' own."""
    assert unread([name]) == {}


def test_a_command_warns_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error, whatever the command then does; one that becomes a server leaves it to the server."""
    monkeypatch.setenv("TIDEGATE_MODLES", "x")
    result = CliRunner().invoke(main, ["--url", "http://127.0.0.1:1", "jobs"])
    assert (
        result.stderr.splitlines()[0] == "Warning: TIDEGATE_MODLES is no setting; is TIDEGATE_MODELS meant?"
    )
    assert result.stderr.count("Warning") == 1
    assert result.stderr.splitlines()[1].startswith("Error: nothing answers")
    monkeypatch.setenv("TIDEGATE_MODELS", "small")
    monkeypatch.setattr("tidegate.command.insist_on_queue", lambda _: None)
    monkeypatch.setattr("os.execve", lambda *_: None)
    assert CliRunner().invoke(main, ["worker"], catch_exceptions=False).stderr == ""


def test_a_server_warns_in_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, when it starts."""
    monkeypatch.setenv("TIDEGATE_MODLES", "x")
    monkeypatch.setattr("structlog.configure", lambda **_: None)
    with structlog.testing.capture_logs() as logged:
        process_log.begin(load())
    told = [(line["log_level"], line["reason"]) for line in logged]
    assert told == [("warning", "TIDEGATE_MODLES is no setting; is TIDEGATE_MODELS meant?")]
