"""What an engine's process is started with, and what its end is called."""

from __future__ import annotations

import signal
import sys

import pytest

from workers.supervisor import engine_environment, exit_name


def test_a_blas_of_the_operators_own_stays() -> None:
    """LD_PRELOAD is not overwritten, and the inherited environment is left as it was."""
    inherited = {"LD_PRELOAD": "/opt/blas.so", "PATH": "/bin"}
    assert engine_environment(inherited, preload=True) == {"LD_PRELOAD": "/opt/blas.so", "PATH": "/bin"}


def test_nothing_is_preloaded_where_it_is_off() -> None:
    """TIDEGATE_BLAS_PRELOAD=off."""
    assert engine_environment({"PATH": "/bin"}, preload=False) == {"PATH": "/bin"}


def test_nothing_is_preloaded_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Linux's wheel computes with a slow BLAS."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert engine_environment({}, preload=True) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is preloaded")
def test_an_installed_openblas_is_preloaded() -> None:
    """Where Linux has none, the environment stays as it was."""
    inherited = {"PATH": "/bin"}
    made = engine_environment(inherited, preload=True)
    assert inherited == {"PATH": "/bin"}
    assert made == inherited or made["LD_PRELOAD"].endswith("libopenblas.so.0")


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
