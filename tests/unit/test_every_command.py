"""Facts about every command there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import click
import pytest
from click.testing import CliRunner

from tidegate.command import main

WITHOUT_JSON: Final = {
    "api": "it becomes a server, whose output is its log",
    "worker": "it becomes a worker, whose output is its log",
    "up": "its output is one answer, and what it started tells of itself over HTTP",
    "launchd": "it prints a property list, which is a form of its own",
    "completion": "it prints a shell's script",
    "keys": "it is a group: its commands have it",
}


def every(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Each command with its name as it is typed, groups among them."""
    for name, command in group.commands.items():
        yield " ".join((*before, name)), command
        if isinstance(command, click.Group):
            yield from every(command, (*before, name))


COMMANDS: Final = dict(every(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_or_has_a_reason_not_to(name: str) -> None:
    """By the same option everywhere, which a failure goes by too."""
    named = [param for param in COMMANDS[name].params if "--json" in param.opts]
    assert (name in WITHOUT_JSON) is not bool(named), name
    assert all(param.name == "as_json" and param.callback is not None for param in named)


def test_no_reason_is_left_over() -> None:
    """Of a command that there is not."""
    assert WITHOUT_JSON.keys() <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    """In a sentence at least, and each of its options in some words, or by its name and what it takes."""
    said = CliRunner().invoke(main, [*name.split(), "--help"])
    assert said.exit_code == 0
    assert (COMMANDS[name].help or "").strip().partition("\n")[0].rstrip(":").endswith((".", "asks"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    """By a script that asks this command for the words."""
    said = CliRunner().invoke(main, ["completion", shell])
    assert said.exit_code == 0
    assert "_TIDEGATE_COMPLETE=" + shell + "_complete" in said.stdout


def test_a_bash_accepts_it_and_gets_the_words() -> None:
    """Commands by their beginnings."""
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=True)
    words = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'tidegate'; from tidegate.command import main; main()",
        ],
        env={"_TIDEGATE_COMPLETE": "bash_complete", "COMP_WORDS": "tidegate sub", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert words.stdout == "plain,submit\n"
