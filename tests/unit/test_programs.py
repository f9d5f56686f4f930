"""The command lines of the programs, and the settings that they are given."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rq.cli import worker as rq_worker

from scheduler.job import PRIORITIES
from scheduler.settings import load
from tests.made_parts import README
from tidegate import programs
from tidegate.command import main
from tidegate.failures import ModelsMissing, ProcessFailed
from tidegate.up import curl_to_try

SECRET_URL = "redis://:hunter2@queue/1"


def test_a_taken_port_is_named() -> None:
    """Before anything is started, and with what to do about it."""
    with programs.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ProcessFailed, match=rf"127\.0\.0\.1:{port}.*--port"):
            programs.listen("127.0.0.1", port)


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


def test_a_worker_without_models_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold memory and serve nothing."""
    monkeypatch.setattr("os.execve", pytest.fail)
    monkeypatch.setattr("tidegate.command.insist_on_queue", lambda _: None)
    monkeypatch.delenv("TIDEGATE_MODELS", raising=False)
    result = CliRunner().invoke(main, ["worker"])
    assert result.exit_code == 1
    assert "TIDEGATE_MODELS" in result.output


def test_commands_are_explained_in_full() -> None:
    """The list cuts nothing off on a screen of 80 columns."""
    assert (
        "..." not in CliRunner().invoke(main, ["--help"], terminal_width=80).output.partition("Commands:")[2]
    )


def test_the_readme_shows_the_call_that_up_shows() -> None:
    """So that what is tried first answers well."""
    assert curl_to_try("http://127.0.0.1:8400", programs.SAMPLE_NAME) in README.read_text()


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
