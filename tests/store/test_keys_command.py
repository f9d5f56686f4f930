"""`tidegate keys`: keys are made, listed, changed and removed as an operator does it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from scheduler.errors import SettingsInvalid
from scheduler.keyring import KEYS_KEY, KeyBook
from scheduler.keys import Key
from scheduler.settings import load
from tests.keys import make_key
from tidegate.command import main
from tidegate.keys import insist_on_own_key

Run = Callable[..., Result]


@pytest.fixture
def run(valkey_url: str, tmp_path: Path) -> Run:
    """Runs the command on the test's server; standard output and error apart."""

    def ran(*words: str) -> Result:
        environment = {"TIDEGATE_REDIS_URL": valkey_url, "TIDEGATE_DATA_DIR": str(tmp_path)}
        return CliRunner(env=environment).invoke(main, ["keys", *words])

    return ran


def stored(connection: Redis) -> list[Key]:
    """The keys that there are, oldest first."""
    return sorted(KeyBook(connection).read()[0].by_owner.values(), key=lambda key: key.created_at)


def test_a_key_is_made_and_its_token_is_shown_once(connection: Redis, run: Run) -> None:
    """Alone on standard output, for `$(tidegate keys add)`; that it is the first is said."""
    result = run("add", "--name", "ann")
    assert result.exit_code == 0, result.output
    (token,) = result.stdout.split()
    assert "from now on every request needs a key" in result.stderr
    assert "the `tidegate` command too: export TIDEGATE_API_KEY" in result.stderr
    (key,) = stored(connection)
    assert KeyBook(connection).read()[0].of_token(token, time.time()) == key
    assert (key.name, key.queued_jobs, key.models, key.sees_all, key.expires_at) == (
        "ann",
        None,
        (),
        False,
        None,
    )
    assert token not in run("list").output + run("list", "--json").output
    assert "every request" not in run("add").stderr


def test_a_key_is_made_with_limits(connection: Redis, run: Run) -> None:
    """All that there are."""
    words = "--queued-jobs 5 --tokens-per-minute 1000 --model a/b --model c --priority batch --expires 2h --all --json"
    said = json.loads(run("add", *words.split()).stdout)
    (key,) = stored(connection)
    assert (key.queued_jobs, key.tokens_per_minute) == (5, 1000)
    assert (key.models, key.priorities, key.sees_all) == (("a/b", "c"), ("batch",), True)
    assert key.expires_at == pytest.approx(time.time() + 7200, abs=60)
    assert said["token"].startswith(key.prefix)
    assert "digest" not in said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2100-01-01T00:00+00:00", 4_102_444_800.0), ("2100-01-01T02:00:00+02:00", 4_102_444_800.0)],
)
def test_an_expiry_may_be_a_moment(connection: Redis, run: Run, text: str, seconds: float) -> None:
    """ISO 8601."""
    run("add", "--expires", text)
    assert [key.expires_at for key in stored(connection)] == [seconds]


@pytest.mark.parametrize(
    "words",
    [
        ["--expires", "soon"],
        ["--expires", "999999w"],
        ["--queued-jobs", "-1"],
        ["--priority", "urgent"],
        ["--name", "x" * 65],
        ["--tokens-per-minute", "1000000000"],
        ["--model", ""],
    ],
)
def test_a_bad_limit_makes_no_key(connection: Redis, run: Run, words: list[str]) -> None:
    """It is said in a line or two, and nothing is stored."""
    result = run("add", *words)
    assert result.exit_code == 2
    assert "Error: " in result.output
    assert stored(connection) == []


def test_keys_are_listed_by_their_beginnings(connection: Redis, run: Run) -> None:
    """With what each may do; nothing that opens anything."""
    (token, ann), _ = (
        make_key(connection, name="ann", tokens_per_minute=1000),
        make_key(connection, expires_at=5.0),
    )
    lines = run("list").stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:2] == [token[:11], "ann"]
    assert "1,000" in lines[1]
    assert "(expired)" in lines[2]
    (first, _) = (json.loads(line) for line in run("list", "--json").stdout.splitlines())
    assert (first["prefix"], first["name"]) == (token[:11], "ann")
    assert ann.digest not in json.dumps(first)


def test_whatever_a_key_says_is_one_line(
    connection: Redis, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that spells out rows, an expiry that is beyond the last year in this time zone."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        make_key(connection, name="ann\nbob", expires_at=253_402_128_000.0)
        line = run("list").stdout.splitlines()[1:]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert len(line) == 1
    assert {"ann", "bob", "9999-12-30"} <= set(line[0].split())


def test_a_change_leaves_the_rest(connection: Redis, run: Run) -> None:
    """By name or by beginning; 0, never and --any-... take limits away."""
    _, key = make_key(connection, name="ann", queued_jobs=5, models=("a",), expires_at=time.time() + 60)
    assert run("change", "ann", "--tokens-per-minute", "70", "--all").exit_code == 0
    assert stored(connection) == [key.changed(tokens_per_minute=70, sees_all=True)]
    words = "--queued-jobs 0 --tokens-per-minute 0 --any-model --expires never --own --priority batch"
    assert run("change", key.prefix, *words.split()).exit_code == 0
    cleared: dict[str, Any] = {"queued_jobs": None, "models": (), "expires_at": None}
    assert stored(connection) == [key.changed(**cleared, priorities=("batch",))]
    assert run("change", "ann", "--any-priority", "--name", "bob").exit_code == 0
    assert stored(connection) == [key.changed(**cleared, name="bob")]


def test_a_key_is_removed_by_name_or_beginning(connection: Redis, run: Run) -> None:
    """What follows from the last one's removal is said."""
    (_, ann), (_, bob) = make_key(connection, name="ann"), make_key(connection)
    assert "within 1 s" in run("remove", "ann").stderr
    assert stored(connection) == [bob]
    assert "no key is left" in run("remove", bob.prefix).stderr
    assert not connection.exists(KEYS_KEY)
    failed = run("remove", ann.prefix)
    assert (failed.exit_code, stored(connection)) == (1, [])
    assert "`tidegate keys list` shows them" in failed.output


def test_a_name_of_two_keys_names_none(connection: Redis, run: Run) -> None:
    """Their beginnings do; and no name is not a name."""
    made = [make_key(connection, name="ann")[1] for _ in range(2)]
    failed = run("remove", "ann")
    assert failed.exit_code == 1
    assert all(key.prefix in failed.output for key in made)
    make_key(connection)
    assert run("remove", "").exit_code == 1
    assert len(stored(connection)) == 3


def test_an_entry_that_is_no_key_is_shown_and_can_be_removed(connection: Redis, run: Run) -> None:
    """It keeps the door shut, so somebody must be able to."""
    connection.hset(KEYS_KEY, "nonsense", "x")
    result = run("list")
    assert "'nonsense' is no key" in result.stderr
    assert run("remove", "nonsense").exit_code == 0
    assert not connection.exists(KEYS_KEY)


def test_an_entry_whose_name_is_no_text_can_be_removed(connection: Redis, run: Run) -> None:
    """As it is shown; a sound key beside it stays."""
    _, ann = make_key(connection, name="ann")
    connection.hset(KEYS_KEY, b"\xff\xfe", "x")
    assert "is no key" in run("list").stderr
    assert run("remove", "\ufffd\ufffd").exit_code == 0
    assert stored(connection) == [ann]


def test_the_embedded_server_is_started_for_it(tmp_path: Path) -> None:
    """A key can be made before the first `tidegate up`; it is there when the server is started again."""
    runner = CliRunner(env={"TIDEGATE_REDIS_URL": "", "TIDEGATE_DATA_DIR": str(tmp_path)})
    made = runner.invoke(main, ["keys", "add", "--name", "ann"])
    assert made.exit_code == 0, made.output
    assert "ann" in runner.invoke(main, ["keys", "list"]).stdout


def test_without_the_queue_it_says_so(tmp_path: Path) -> None:
    """Like every command that needs it."""
    environment = {"TIDEGATE_REDIS_URL": "redis://127.0.0.1:1/0", "TIDEGATE_DATA_DIR": str(tmp_path)}
    failed = CliRunner(env=environment).invoke(main, ["keys", "list"])
    assert (failed.exit_code, failed.output.startswith("Error: nothing answers at redis://127.0.0.1:1")) == (
        1,
        True,
    )


def test_the_api_is_not_started_beyond_loopback_without_keys(
    valkey_url: str, tmp_path: Path, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tidegate api` says how one is made; with one, or where the operator means it, it becomes the server."""
    became: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *words: became.append(words))
    environment = {
        "TIDEGATE_REDIS_URL": valkey_url,
        "TIDEGATE_DATA_DIR": str(tmp_path),
        "TIDEGATE_HOST": "0.0.0.0",
    }

    def start(**more: str) -> Result:
        return CliRunner(env=environment | more).invoke(main, ["api"])

    failed = start()
    assert (failed.exit_code, became) == (1, [])
    assert "`tidegate keys add`" in failed.output
    assert start(TIDEGATE_OPEN="true").exit_code == 0
    assert start(TIDEGATE_HOST="localhost").exit_code == 0
    make_key(connection)
    assert start().exit_code == 0
    assert len(became) == 3


def test_up_needs_a_key_for_its_own_question(valkey_url: str, connection: Redis) -> None:
    """Where there are any."""
    settings = load(redis_url=valkey_url)
    insist_on_own_key(settings)
    make_key(connection)
    with pytest.raises(SettingsInvalid, match="TIDEGATE_API_KEY"):
        insist_on_own_key(settings)
    with pytest.raises(SettingsInvalid, match="TIDEGATE_API_KEY: this API key is not known here"):
        insist_on_own_key(load(redis_url=valkey_url, api_key="tg-x"))
    insist_on_own_key(load(redis_url=valkey_url, api_key=make_key(connection)[0]))


@pytest.mark.parametrize(
    ("served", "models", "note"),
    [
        ("a,b=/srv/b", ("a", "gpt-4o"), "not in TIDEGATE_MODELS here: 'gpt-4o'; served are a, b"),
        ("a,b=/srv/b", ("a", "b"), ""),
        ("", ("gpt-4o",), ""),
    ],
)
def test_a_key_for_a_model_that_is_not_served_is_made_with_a_note(
    valkey_url: str, tmp_path: Path, connection: Redis, served: str, models: tuple[str, ...], note: str
) -> None:
    """A misspelt name would let nobody in; where it is not known what is served, nothing is said."""
    environment = {
        "TIDEGATE_REDIS_URL": valkey_url,
        "TIDEGATE_DATA_DIR": str(tmp_path),
        "TIDEGATE_MODELS": served,
    }
    words = ("keys", "add", *(word for model in models for word in ("--model", model)))
    result = CliRunner(env=environment).invoke(main, words)
    assert result.exit_code == 0
    assert [key.models for key in stored(connection)] == [models]
    assert note in result.stderr
    assert ("not in TIDEGATE_MODELS" in result.stderr) == bool(note)
