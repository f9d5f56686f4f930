"""What an engine's process is started with, and what its end is called."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.blame import Fault
from scheduler.settings import Settings
from workers import environment, supervisor
from workers.classifier import exit_name
from workers.environment import engine_environment
from workers.supervisor import LOAD_SECONDS, START_SECONDS, Supervisor

ON_LINUX = {
    "MLX_MAX_OPS_PER_BUFFER": "30",
    "MLX_MAX_MB_PER_BUFFER": "400",
    "OPENBLAS_THREAD_TIMEOUT": "4",
}


def test_an_operators_own_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """LD_PRELOAD is not overwritten, nor are MLX's buffers, and the inherited environment is left as it was."""
    monkeypatch.setattr(sys, "platform", "linux")
    inherited = {"LD_PRELOAD": "/opt/blas.so", "PATH": "/bin"}
    assert engine_environment(inherited, preload=True) == ON_LINUX | inherited
    own = {"LD_PRELOAD": "/opt/blas.so", "MLX_MAX_OPS_PER_BUFFER": "90"}
    assert engine_environment(own, preload=True) == ON_LINUX | own


def test_nothing_is_preloaded_where_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """TIDEGATE_BLAS_PRELOAD=off."""
    monkeypatch.setattr(sys, "platform", "linux")
    assert engine_environment({"PATH": "/bin"}, preload=False) == ON_LINUX | {"PATH": "/bin"}


def test_nothing_is_preloaded_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Linux's wheel computes with a slow BLAS, and Metal's buffers are MLX's to bound."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert engine_environment({}, preload=True) == {}


@pytest.mark.parametrize("folder", ["lib/x86_64-linux-gnu", "lib64", "lib"])
def test_an_installed_openblas_is_preloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    """Wherever a distribution puts it; where there is none, and in the worker's own, nothing changes."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(environment, "Path", lambda _: tmp_path)  # in /usr's place
    inherited = {"PATH": "/bin"}
    assert engine_environment(inherited, preload=True) == ON_LINUX | inherited
    library = tmp_path / folder / "libopenblas.so.0"
    library.parent.mkdir(parents=True)
    library.touch()
    found = ON_LINUX | inherited | {"LD_PRELOAD": str(library)}
    assert engine_environment(inherited, preload=True) == found
    assert inherited == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-signal.SIGKILL, "SIGKILL"),
        (-signal.SIGSEGV, "SIGSEGV"),
        (-99, "signal 99"),
    ],
)
def test_an_end_has_a_name(code: int, name: str) -> None:
    """A signal's, or the exit code; no code raises."""
    assert exit_name(code) == name


class Patient(Supervisor):
    """Notes how long its engine may be silent."""

    seconds: float | None = None

    def kill_if_silent(self, seconds: float) -> bool:
        self.seconds = seconds
        return False


@pytest.mark.parametrize(
    ("busy", "loading", "ready", "begun", "seconds"),
    [
        (False, False, True, False, None),
        (True, False, True, False, 20.0),
        (False, True, True, False, LOAD_SECONDS),
        (True, True, True, False, 20.0),
        (True, True, True, True, LOAD_SECONDS),
        (False, False, False, False, START_SECONDS),
    ],
)
def test_an_engine_may_be_silent_as_long_as_what_it_does_can_take(
    busy: bool, loading: bool, ready: bool, begun: bool, seconds: float | None
) -> None:
    """Nothing to do: for ever. A step: the progress deadline. Importing MLX: a while. A load, once begun: a download."""
    patient = Patient(Settings(progress_timeout=20))
    patient.account.loading = begun
    patient.watch(busy=busy, loading=loading, ready=ready)
    assert patient.seconds == seconds


class Deaf(Supervisor):
    """Its engine reads nothing, and does not end with its pipe."""

    def _spawn(self, read_fd: int, write_fd: int) -> subprocess.Popen[bytes]:
        script = [sys.executable, "-c", "import time; time.sleep(60)"]
        return subprocess.Popen(script, stderr=subprocess.PIPE, pass_fds=(write_fd,))


def test_an_engine_that_had_to_be_ended_did_not_run_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal that ended it was its supervisor's, who had heard nonsense."""
    monkeypatch.setattr(supervisor, "_EXIT_SECONDS", 0.1)
    engine = Deaf(Settings())
    engine.start()
    death = engine.bury()
    assert (death.fault, death.exit_code) == (Fault.BUG, -signal.SIGKILL)
