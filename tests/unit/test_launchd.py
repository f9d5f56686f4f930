"""`tidegate launchd`: the property lists that it prints, on whatever system, and what it says to do with them."""

from __future__ import annotations

import math
import os
import plistlib
import pwd
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from scheduler.settings import load
from tidegate import embedded, launchd, programs
from tidegate.command import main
from tidegate.launchd import PROGRAMS, Account, grace_seconds

KEYS: Final = {
    *(
        "AbandonProcessGroup",
        "AssociatedBundleIdentifiers",
        "BundleProgram",
        "Debug",
        "Disabled",
        "EnableGlobbing",
    ),
    *("EnablePressuredExit", "EnableTransactions", "EnvironmentVariables", "ExitTimeOut", "GroupName"),
    *(
        "HardResourceLimits",
        "InitGroups",
        "KeepAlive",
        "Label",
        "LaunchEvents",
        "LaunchOnlyOnce",
        "LegacyTimers",
    ),
    *("LimitLoadFromHardware", "LimitLoadFromHosts", "LimitLoadToHardware", "LimitLoadToHosts"),
    *("LimitLoadToSessionType", "LowPriorityBackgroundIO", "LowPriorityIO", "MachServices"),
    *("MaterializeDatalessFiles", "Nice", "OnDemand", "ProcessType", "Program", "ProgramArguments"),
    *("QueueDirectories", "RootDirectory", "RunAtLoad", "SessionCreate", "Sockets", "SoftResourceLimits"),
    *("StandardErrorPath", "StandardInPath", "StandardOutPath", "StartCalendarInterval", "StartInterval"),
    *("StartOnMount", "ThrottleInterval", "TimeOut", "Umask", "UserName", "WaitForDebugger", "WatchPaths"),
    *("WorkingDirectory", "inetdCompatibility"),
}
"""Of launchd.plist(5), macOS 26."""

LIMITS: Final = {
    *(
        "Core",
        "CPU",
        "Data",
        "FileSize",
        "MemoryLock",
        "NumberOfFiles",
        "NumberOfProcesses",
        "ResidentSetSize",
    ),
    "Stack",
}

ME: Final = pwd.getpwuid(os.geteuid())
TEXT: Final = (
    "TIDEGATE_REDIS_URL=redis://:hunter2@queue:6379/0\n"
    "TIDEGATE_WEBHOOK_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"
    "TIDEGATE_API_KEY=tg_secret\nTIDEGATE_MODELS=org/model\nTIDEGATE_SHUTDOWN_GRACE=90.5\n"
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings with every secret that there is; what they set in this process is taken back."""
    for line in TEXT.splitlines():
        monkeypatch.setenv(line.partition("=")[0], "")
    made = tmp_path / "tide gate.env"
    made.touch(mode=0o600)
    made.write_text(TEXT)
    return made


def run(file: Path, *words: str) -> Result:
    """What the command does."""
    return CliRunner().invoke(main, ["--settings", str(file), "launchd", *words])


def printed(file: Path, *words: str) -> dict[str, Any]:
    """What it prints, read as a property list."""
    result = run(file, *words)
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = plistlib.loads(result.stdout.encode())
    return made


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("boot", [(), ("--boot", "nobody")])
def test_every_key_is_one_of_launchds(file: Path, program: str, boot: tuple[str, ...]) -> None:
    """With a value of the kind that it takes."""
    made = printed(file, program, *boot)
    assert made.keys() <= KEYS
    assert made["SoftResourceLimits"].keys() <= LIMITS
    assert made["Label"] == f"tidegate.{program}"
    assert made["ProcessType"] in {"Background", "Standard", "Adaptive", "Interactive"}
    assert all(type(made[name]) is bool for name in ("RunAtLoad", "KeepAlive"))
    whole = [made[name] for name in ("ExitTimeOut", "ThrottleInterval", "Umask")]
    assert all(type(each) is int for each in [*whole, *made["SoftResourceLimits"].values()])
    assert all(type(each) is str for each in made["EnvironmentVariables"].values())
    assert Path(made["ProgramArguments"][0]).is_absolute()


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_program_is_the_jobs_own_process(file: Path, program: str) -> None:
    """This interpreter's, with nothing around it that would take the signal for it."""
    made = printed(file, program)
    assert tuple(made["ProgramArguments"]) == programs.own_command("--settings", str(file), program)
    assert made["ProgramArguments"][0] == sys.executable
    assert program in main.commands
    assert made["Umask"] == 63
    assert made["ProcessType"] == "Interactive"


def test_its_help_shows_an_example_on_a_line_of_its_own() -> None:
    """As it is typed."""
    lines = CliRunner().invoke(main, ["launchd", "--help"], terminal_width=80).output.splitlines()
    example = (
        "tidegate --settings ~/tidegate.env launchd worker > ~/Library/LaunchAgents/tidegate.worker.plist"
    )
    assert example in map(str.strip, lines)
    assert not any("\\" in line for line in lines)


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_setting_is_printed(file: Path, program: str) -> None:
    """Neither in the property list nor in what is said beside it."""
    output = run(file, program).output
    for line in TEXT.splitlines():
        assert line.partition("=")[2] not in output
    assert "hunter2" not in output
    assert "Warning" not in output


def test_its_patience_is_longer_than_the_programs(file: Path) -> None:
    """By these settings; `up` ends a worker, the API and the server in turn."""
    made = printed(file, "worker")
    assert made["ExitTimeOut"] > 90.5 + programs.WORKER_GRACE_SECONDS
    settings = load(shutdown_grace=90.5)
    assert made["ExitTimeOut"] == grace_seconds("worker", settings)
    assert grace_seconds("api", settings) > programs.API_GRACE_SECONDS
    together = 90.5 + programs.WORKER_GRACE_SECONDS + programs.API_GRACE_SECONDS + embedded.STOP_SECONDS
    assert grace_seconds("up", settings) > together


def test_an_agent_is_the_users_and_a_daemon_the_systems_run_as_one(file: Path) -> None:
    """Each with its folder and its domain; logs have no space in their path, and are the user's."""
    agent, daemon = run(file, "worker"), run(file, "worker", "--boot", "nobody", "--label", "my.worker")
    assert "UserName" not in plistlib.loads(agent.stdout.encode())
    assert (
        f"launchctl bootstrap gui/$(id -u) {ME.pw_dir}/Library/LaunchAgents/tidegate.worker.plist"
        in agent.stderr
    )
    made = plistlib.loads(daemon.stdout.encode())
    home = pwd.getpwnam("nobody").pw_dir
    assert (made["UserName"], made["EnvironmentVariables"]["HOME"]) == ("nobody", home)
    assert made["StandardErrorPath"] == f"{home}/Library/Logs/tidegate/my.worker.log"
    assert "sudo launchctl bootstrap system /Library/LaunchDaemons/my.worker.plist" in daemon.stderr
    assert "sudo launchctl bootout system/my.worker" in daemon.stderr
    assert Account("me", Path("/Users/me"), boot=False).folder == Path("/Users/me/Library/LaunchAgents")


def test_what_only_this_shell_has_is_warned_of(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name: the job starts without it."""
    monkeypatch.setenv("TIDEGATE_HOST", "127.0.0.1")
    said = run(file, "api").stderr.splitlines()
    assert said[0] == "Warning: TIDEGATE_HOST is set here, and not in the file: the job does not have it"
    assert sum(line.startswith("Warning") for line in said) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("worker", "--boot", "root"), "not as root"),
        (("worker", "--boot", "no-such-user-here"), "there is no user"),
        (("worker", "--label", "a b/c"), "letters, digits"),
        (("queue",), "is not one of"),
    ],
)
def test_what_would_not_run_is_refused(file: Path, words: tuple[str, ...], said: str) -> None:
    """With nothing on standard output that could be taken for a property list."""
    result = run(file, *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_settings_that_start_nothing_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, and no model: launchd would start it again and again."""
    without = CliRunner().invoke(main, ["launchd", "worker"])
    assert (without.exit_code, without.stdout) == (1, "")
    assert "give a file of settings" in without.stderr
    file.write_text("TIDEGATE_MODELS=/no/such/folder\n")
    monkeypatch.setenv("TIDEGATE_MODELS", "")
    result = run(file, "worker")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the folder /no/such/folder does not exist" in result.stderr


def test_the_docs_explain_every_key(file: Path) -> None:
    """But for its name, its program and its user, which the commands there show."""
    page = (Path(__file__).parents[2] / "docs" / "macos.md").read_text()
    made = printed(file, "worker")
    explained = made.keys() - {"Label", "ProgramArguments"}
    assert [name for name in explained if f"`{name}`" not in page] == []
    assert f"| {made['Umask']}, which is 077 |" in page
    assert f"| {made['ThrottleInterval']} s |" in page
    assert f"| {made['SoftResourceLimits']['NumberOfFiles']:,} files |" in page
    spare = made["ExitTimeOut"] - math.ceil(90.5)
    assert f"`TIDEGATE_SHUTDOWN_GRACE` and {spare} s (worker)" in page


def test_a_list_is_read_back_as_it_was_made(file: Path) -> None:
    """Whatever is in a path."""
    account = Account("me", Path("/Users/m & <é>"), boot=False)
    made = launchd.job("worker", load(), file, account, "x")
    assert plistlib.loads(launchd.dump(made).encode()) == made


def test_the_file_is_named_from_the_root(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `..`, which would lead elsewhere once a folder is moved; a link stays one, and may lead elsewhere later."""
    (file.parent / "below").mkdir()
    link = file.parent / "link.env"
    link.symlink_to(file)
    monkeypatch.chdir(file.parent / "below")
    made = plistlib.loads(run(Path("../link.env"), "worker").stdout.encode())
    assert str(link.parent.resolve() / link.name) in made["ProgramArguments"]
