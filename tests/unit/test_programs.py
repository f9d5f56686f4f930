"""The command lines of the programs, and the settings that they are given."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from rq.cli import worker as rq_worker

from scheduler.errors import ClientError
from scheduler.job import PRIORITIES
from scheduler.settings import load
from tests.made_parts import README
from tidegate import programs
from tidegate.client import Client
from tidegate.command import main
from tidegate.failures import ModelsMissing, ProcessFailed
from tidegate.up import curl_to_try, saying_why_no_model, submitted_first, why_not_loaded

SECRET_URL = "redis://:hunter2@queue/1"


def test_a_taken_port_is_named() -> None:
    """Before anything is started, and with what to do about it."""
    with programs.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ProcessFailed, match=rf"127\.0\.0\.1:{port}.*--port"):
            programs.listen("127.0.0.1", port)


def test_all_addresses_are_those_of_ipv4_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`::` alone would be those of IPv6, where a system says so."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("socket.create_server", lambda _, **options: asked.append(options))
    monkeypatch.setattr("socket.has_dualstack_ipv6", lambda: True)
    for host in ("::", "::1", "127.0.0.1"):
        programs.listen(host, 0)
    assert [each["dualstack_ipv6"] for each in asked] == [True, False, False]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("mac.local", "http://mac.local:80"),
    ],
)
def test_a_url_leads_where_a_client_can_go(host: str, url: str) -> None:
    """An address that means "all of them" is no address to go to."""
    assert programs.url_of(host, 80) == url


def test_children_read_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was given on the command line reaches them through their environment."""
    settings = load(data_dir=tmp_path / "a b", models=("tiny=/a b/tiny", "org/m"), port=8123, host="::1")
    for name, value in programs.environment(settings).items():
        monkeypatch.setenv(name, value)
    child = load()
    for field in ("data_dir", "models", "port", "host"):
        assert getattr(child, field) == getattr(settings, field)


def test_children_run_elsewhere_and_find_the_same_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Folders are named from the root; a Hugging Face id is left as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    settings = programs.with_absolute_paths(load(data_dir=Path("data"), models=("tiny", "t=tiny", "org/m")))
    assert settings.data_dir == tmp_path / "data"
    assert settings.models == (f"tiny={tmp_path}/tiny", f"t={tmp_path}/tiny", "org/m")


def test_the_sample_is_served_first(tmp_path: Path) -> None:
    """Beside what is served anyway, and once."""
    settings, folder = programs.with_sample(
        load(data_dir=tmp_path, models=("org/m", "SmolLM2-135M-Instruct=x"))
    )
    assert settings.models == (f"SmolLM2-135M-Instruct={folder}", "org/m")
    assert folder.parent == tmp_path / "models"


def test_a_folder_that_cannot_be_written_down_is_refused(tmp_path: Path) -> None:
    """TIDEGATE_MODELS is comma separated."""
    with pytest.raises(ProcessFailed, match="comma"):
        programs.with_sample(load(data_dir=tmp_path / "a,b"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """At the start, not by the first job; a Hugging Face id is no folder, and the sample is made."""
    for source in ("/nope", "./nope", "~/nope-nope"):
        with pytest.raises(ModelsMissing, match=f"the folder {source} does not exist"):
            programs.insist_on_models(load(models=("org/m", f"foo={source}")))
    programs.insist_on_models(load(models=("org/m", f"here={tmp_path}", "s=/made")), Path("/made"))


@pytest.mark.parametrize("set_by", ["nobody", "the operator"])
def test_a_worker_without_its_queue_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, set_by: str
) -> None:
    """Where it looked, without the password, and what to start; it does not become RQ's."""
    monkeypatch.setattr("os.execve", pytest.fail)
    monkeypatch.setenv("TIDEGATE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("TIDEGATE_REDIS_URL", raising=False)
    if set_by == "the operator":
        monkeypatch.setenv("TIDEGATE_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    result = CliRunner().invoke(main, ["worker"])
    assert result.exit_code == 1
    where = "redis://127.0.0.1:1/0" if set_by == "the operator" else f"unix://{load().socket_path}"
    assert result.output.startswith(f"Error: nothing answers at {where} ")
    assert ("TIDEGATE_REDIS_URL" if set_by == "the operator" else "`tidegate up`") in result.output
    assert "hunter2" not in result.output


def test_an_api_without_the_embedded_server_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a worker does; one whose server is named starts, and waits for it."""
    became: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *words: became.append(words))
    monkeypatch.setenv("TIDEGATE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TIDEGATE_PORT", "0")
    monkeypatch.delenv("TIDEGATE_REDIS_URL", raising=False)
    result = CliRunner().invoke(main, ["api"])
    assert (result.exit_code, became) == (1, [])
    assert result.output.startswith(f"Error: nothing answers at unix://{load().socket_path} ")
    assert "`tidegate up` starts it" in result.output
    monkeypatch.setenv("TIDEGATE_REDIS_URL", "redis://127.0.0.1:1/0")
    assert CliRunner().invoke(main, ["api"]).exit_code == 0
    assert len(became) == 1


def test_a_worker_without_models_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold memory and serve nothing."""
    monkeypatch.setattr("os.execve", pytest.fail)
    monkeypatch.setattr("tidegate.command.insist_on_queue", lambda _: None)
    monkeypatch.delenv("TIDEGATE_MODELS", raising=False)
    result = CliRunner().invoke(main, ["worker"])
    assert result.exit_code == 1
    assert "TIDEGATE_MODELS" in result.output


@pytest.mark.parametrize("program", ["api", "worker"])
def test_the_sample_can_be_served_by_one_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str
) -> None:
    """Under the name, and from the folder, of `tidegate up --sample`; beside what is served anyway."""
    became: list[Mapping[str, str]] = []
    made: list[Path] = []
    monkeypatch.setattr("os.execve", lambda *words: became.append(words[2]))
    monkeypatch.setattr("tidegate.command.insist_on_queue", lambda _: None)
    monkeypatch.setattr("tidegate.command.insist_on_keys", lambda *_: None)
    monkeypatch.setattr("tidegate.up.make_sample", lambda _, folder, *__: made.append(folder))
    for name, value in {"DATA_DIR": str(tmp_path), "PORT": "0", "MODELS": "org/m"}.items():
        monkeypatch.setenv(f"TIDEGATE_{name}", value)
    monkeypatch.setattr("tidegate.programs.insist_on_models", lambda _: None)
    assert CliRunner().invoke(main, [program, "--sample"]).exit_code == 0
    assert made == [tmp_path / "models" / programs.SAMPLE_NAME]
    (told,) = became
    assert told["TIDEGATE_MODELS"] == f"{programs.SAMPLE_NAME}={made[0]},org/m"


def test_commands_are_explained_in_full() -> None:
    """The list cuts nothing off on a screen of 80 columns."""
    assert (
        "..." not in CliRunner().invoke(main, ["--help"], terminal_width=80).output.partition("Commands:")[2]
    )


def test_the_readme_shows_the_call_that_up_shows() -> None:
    """So that what is tried first answers well."""
    assert curl_to_try("http://127.0.0.1:8400", programs.SAMPLE_NAME) in README.read_text()


def test_the_call_to_try_has_the_key_where_there_are_keys() -> None:
    """By the variable's name, for the shell to fill in: the token itself is not shown."""
    url = "http://127.0.0.1:8400"
    assert '-H "Authorization: Bearer $TIDEGATE_API_KEY"' in curl_to_try(url, "m", with_key=True)
    assert "Authorization" not in curl_to_try(url, "m")


def test_why_a_model_was_not_loaded_is_read_from_the_workers_log() -> None:
    """The last time's, and nothing where the log does not say it."""
    line = "  2026-11-26 [error    ] model cannot be loaded         model=m reason="
    assert why_not_loaded(f"{line}'OSError: a'\n{line}'no such file: b'\n  more\n") == "no such file: b"
    assert why_not_loaded("  2026-11-26 [info     ] model unloaded   model=m\n") == ""


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({}, "no_worker: m cannot be loaded: no such file"),
        ({"estimated_bytes": 5, "limit_bytes": 4}, "BUDGET"),
    ],
)
def test_up_tells_of_a_model_that_cannot_be_loaded(
    tmp_path: Path, numbers: dict[str, int], said: str
) -> None:
    """Why, or what to raise, and where the worker's log is; when to try again is nothing to somebody who starts it."""
    log = tmp_path / "logs" / "worker.log"
    log.parent.mkdir()
    log.write_text("[error    ] model cannot be loaded         model=m reason='no such file'\n")
    error = ClientError("no_worker", "m cannot be loaded", retry_after=60, **numbers)
    with pytest.raises(ProcessFailed) as caught, saying_why_no_model(load(data_dir=tmp_path)):
        raise error
    assert said in str(caught.value)
    assert str(log) in str(caught.value)
    assert "try again" not in str(caught.value)


def test_up_tells_other_refusals_as_they_are(tmp_path: Path) -> None:
    """They have nothing to do with the worker's log."""
    with pytest.raises(ClientError, match="full"), saying_why_no_model(load(data_dir=tmp_path)):
        raise ClientError("queue_full", "full")


def rq_reads(command: Sequence[str], environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What RQ's own `worker` command makes of a command line and an environment."""
    assert command[:4] == (sys.executable, "-m", "rq.cli", "worker")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return rq_worker.make_context("worker", list(command[4:])).params


@pytest.mark.parametrize("start", ["tidegate up", "tidegate worker"])
def test_the_worker_is_rqs_on_the_queue_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: str
) -> None:
    """As anybody would start it; its queue's password is in no list of processes."""
    monkeypatch.setenv("TIDEGATE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TIDEGATE_REDIS_URL", SECRET_URL)
    monkeypatch.setenv("RQ_REDIS_URL", "redis://another")
    monkeypatch.setenv("TIDEGATE_MODELS", "org/m")
    if start == "tidegate up":
        program = programs.worker(load())
        command, environment = program.command, program.environment
    else:
        became: list[Any] = []
        monkeypatch.setattr("tidegate.command.insist_on_queue", lambda _: None)
        monkeypatch.setattr("os.execve", lambda *given: became.append(given))
        monkeypatch.setattr("os.execv", pytest.fail)
        CliRunner().invoke(main, ["worker"], catch_exceptions=False)
        ((path, command, environment),) = became
        assert path == sys.executable
        assert environment["TIDEGATE_DATA_DIR"] == str(tmp_path)
    assert not any("hunter2" in word for word in command)
    params = rq_reads(command, environment, monkeypatch)
    assert (params["url"], params["worker_class"]) == (SECRET_URL, "workers.MetalWorker")
    assert params["queues"] == PRIORITIES


@pytest.mark.parametrize("refused", ["", "priority", "model"])
def test_the_first_question_goes_ahead_of_what_waits(refused: str) -> None:
    """Where a key may not use that class it is asked in the usual one; any other refusal is told."""
    asked: list[dict[str, Any]] = []

    class Api:
        def submit(self, request: dict[str, Any]) -> dict[str, Any]:
            asked.append(request)
            if refused and len(asked) == 1:
                raise ClientError("forbidden", "no", param=refused)
            return {"id": "job_1"}

    def submit() -> dict[str, Any]:
        return submitted_first(cast("Client", Api()), "m")

    if refused == "model":
        with pytest.raises(ClientError):
            submit()
    else:
        assert submit() == {"id": "job_1"}
    assert [each.get("priority") for each in asked] == ["interactive", None][: 1 + (refused == "priority")]


def test_a_taken_port_is_told_before_the_sample_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Making it may be a long download."""
    monkeypatch.setattr("tidegate.up.make_sample", pytest.fail)
    monkeypatch.setenv("TIDEGATE_DATA_DIR", str(tmp_path))
    with programs.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        result = CliRunner().invoke(main, ["up", "--sample", "--port", str(port)])
    assert (result.exit_code, f"cannot listen on 127.0.0.1:{port}" in result.output) == (1, True)
