"""Which host this is, from recorded words, and which of its processes live."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.host_share import Share
from workers import host

BOOT = "039ee005-c523-4ed9-ac8b-49c40b6bb512"


def share(pid: int, space: str | None = None) -> Share:
    return Share("w", pid, host.pid_space() if space is None else space, 1, ("host_total",), 15.0)


def boot_id(proc: Path, text: str) -> Path:
    folder = proc / "sys/kernel/random"
    folder.mkdir(parents=True)
    (folder / "boot_id").write_text(text)
    return proc


def test_linux_names_its_boot(tmp_path: Path) -> None:
    """As the kernel says it, in one spelling."""
    assert host.linux_boot(boot_id(tmp_path, f"{BOOT.upper()}\n")) == BOOT


@pytest.mark.parametrize("text", ["", "\n", "none of your business", "x" * 36])
def test_an_odd_boot_is_no_name(tmp_path: Path, text: str) -> None:
    """Nor is a file that is not there."""
    assert host.linux_boot(boot_id(tmp_path, text)) == ""
    assert host.linux_boot(tmp_path / "nowhere") == ""


@pytest.mark.parametrize(("said", "name"), [(f"{BOOT.upper()}\n", BOOT), ("", ""), ("unknown oid\n", "")])
def test_a_mac_names_its_boot(said: str, name: str) -> None:
    """By `sysctl -n kern.bootsessionuuid`; what it does not know is no name."""
    assert host.mac_boot(said) == name


def test_a_mac_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And has one space of process numbers."""
    monkeypatch.setattr(host.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(host, "_sysctl", {"kern.bootsessionuuid": BOOT}.__getitem__)
    assert (host.host_name(), host.pid_space()) == (BOOT, "mac")


def test_a_host_that_names_no_boot_is_named_by_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless that address was drawn by lot, for this process alone: then by its own name."""
    monkeypatch.setattr(host.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(host, "_sysctl", lambda _: "")
    monkeypatch.setattr(host.uuid, "getnode", lambda: 0x0242AC110002)
    assert host.host_name() == "node-0242ac110002"
    monkeypatch.setattr(host.uuid, "getnode", lambda: 0x0342AC110002)
    monkeypatch.setattr(host.socket, "gethostname", lambda: "studio")
    assert host.host_name() == "studio"


def test_all_processes_here_name_the_host_alike() -> None:
    """And the space of their numbers."""
    say = "from workers import host; print(host.host_name(), host.pid_space())"
    there = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True).stdout
    assert there.split(" ", 1) == [host.host_name(), f"{host.pid_space()}\n"]


def test_a_process_is_gone_when_it_ended() -> None:
    """Also while nobody has asked for its exit status; a living one is not gone."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not host.is_gone(share(child.pid))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert host.is_gone(share(child.pid))
    child.communicate()
    assert host.is_gone(share(child.pid))


@pytest.mark.parametrize("pid", [-1, 1 << 70])
def test_what_cannot_be_a_process_is_gone(pid: int) -> None:
    """Whoever wrote it."""
    assert host.is_gone(share(pid))


def test_another_share_of_this_processs_number_is_a_dead_ones() -> None:
    """Only one process has it."""
    assert host.is_gone(share(os.getpid()))
    assert not host.is_gone(share(os.getppid()))


@pytest.mark.parametrize("space", ["", "pid:[1]"])
def test_a_process_elsewhere_is_never_seen_to_be_gone(space: str) -> None:
    """Its number means another one here."""
    assert not host.is_gone(share(-1, space))


def test_a_space_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    """As where there is no /proc."""
    assert host.linux_pid_space(tmp_path) == ""
