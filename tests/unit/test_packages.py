"""`.ci/packages`: conveniences of Debian's are installed where that needs no question, and never in the way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "packages"
BECOMES_THERE = "echo > {0}/chromium; /bin/chmod +x {0}/chromium"


class Machine:
    """A folder that is the whole PATH: the programs there say what machine this is, and note what is asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = folder / "asked"
        self.program("uname", "echo Linux")
        self.program("id", "echo 0")
        self.program("grep", "false")  # no library is there
        self.program("timeout", 'shift; "$@"')

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def apt(self, then: str = "") -> None:
        self.program("apt-get", f'echo "$@" >> {self.asked}\n{then}')

    def run(self, *purposes: str, **environment: str) -> str:
        own = {"PATH": os.fspath(self.folder)} | environment
        command = ["/bin/sh", os.fspath(SCRIPT), *purposes]
        ended = subprocess.run(command, env=own, capture_output=True, text=True, timeout=30, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    @property
    def installs(self) -> list[str]:
        lines = self.asked.read_text().splitlines() if self.asked.exists() else []
        return [line.split()[-1] for line in lines if line.startswith("install")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_there_is_left_alone(machine: Machine) -> None:
    """Under any of a browser's names; nothing is said."""
    machine.apt()
    machine.program("google-chrome", "")
    machine.program("grep", "true")
    assert machine.run("speed", "browser") == ""
    assert machine.installs == []


def test_root_gets_what_is_asked_for_and_no_more(machine: Machine) -> None:
    """Who only runs tidegate does not pay for a browser."""
    machine.apt(f'case "$*" in *chromium) {BECOMES_THERE.format(machine.folder)};; esac')
    assert machine.run("speed").startswith("installing libopenblas0\nnote: ")  # it failed to appear
    assert machine.installs == ["libopenblas0"]
    assert machine.run("browser") == "installing chromium\n"
    assert machine.installs == ["libopenblas0", "chromium"]


def test_a_list_of_packages_that_is_out_of_date_is_renewed(machine: Machine) -> None:
    """Once, and the package is asked for again."""
    have = f"{machine.folder}/list"
    machine.apt(
        f'[ "$1" != update ] || echo > {have}; [ -e {have} ] && {BECOMES_THERE.format(machine.folder)}'
    )
    assert machine.run("browser") == "installing chromium\n"
    assert machine.installs == ["chromium", "chromium"]


@pytest.mark.parametrize("why", ["NO_APT", "not root", "no apt", "apt fails"])
def test_where_it_cannot_be_had_it_is_named(machine: Machine, why: str) -> None:
    """And that is no failure."""
    if why != "no apt":
        machine.apt("false")
    if why == "not root":
        machine.program("id", "echo 1000")
    said = machine.run("browser", **({"NO_APT": "1"} if why == "NO_APT" else {}))
    assert said.splitlines()[-1].startswith("note: ") and "Debian's chromium" in said
    assert machine.installs == (["chromium"] if why == "apt fails" else [])


def test_a_mac_is_asked_for_nothing(machine: Machine) -> None:
    """The packages are Debian's."""
    machine.program("uname", "echo Darwin")
    assert machine.run("speed", "browser") == ""
