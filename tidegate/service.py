"""`tidegate launchd`: prints what launchd is to be told, and how to tell it."""

from __future__ import annotations

import os
import pwd
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click

from scheduler.errors import SettingsInvalid
from scheduler.settings import Settings
from tidegate import launchd, programs
from tidegate.launchd import Account

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _account(_: click.Context, param: click.Parameter, boot: str | None) -> Account:
    """Whose job it is to be."""
    try:
        found = pwd.getpwnam(boot) if boot else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise click.BadParameter(f"there is no user {boot!r} here", param=param) from None
    if boot and found.pw_uid == 0:
        raise click.BadParameter("not as root: give it a user of its own", param=param)
    return Account(found.pw_name, Path(found.pw_dir), boot=boot is not None)


def _label(_: click.Context, param: click.Parameter, label: str | None) -> str | None:
    if label is not None and not _LABEL.fullmatch(label):
        raise click.BadParameter("letters, digits, dots, dashes and underscores", param=param)
    return label


@click.command("launchd")
@click.argument("program", type=click.Choice(launchd.PROGRAMS))
@click.option(
    "--boot", "account", metavar="USER", callback=_account, help="From boot, as USER; else from your login."
)
@click.option("--label", callback=_label, help="Its name to launchd; by default tidegate.PROGRAM.")
@click.pass_context
def print_job(context: click.Context, program: str, account: Account, label: str | None) -> None:
    """Print a property list by which launchd runs PROGRAM on a Mac.

    Settings come from the file that --settings names, before the command; it is read whenever the program starts, and
    none of it is printed:

    \b
      tidegate --settings ~/tidegate.env launchd worker > ~/Library/LaunchAgents/tidegate.worker.plist

    How to start, restart and end the job is printed to standard error.
    """  # noqa: D301  # click keeps a paragraph as it is behind the character itself
    settings: Settings = context.obj
    name, file = label or f"tidegate.{program}", context.meta["settings_file"]
    if file is None:
        raise SettingsInvalid(
            f"give a file of settings: tidegate --settings FILE launchd {program}; launchd's jobs have none of this"
            " shell's variables"
        )
    if program != "api":
        programs.insist_on_models(settings)
    click.echo(launchd.dump(launchd.job(program, settings, file, account, name)), nl=False)
    for line in _steps(name, account, context.meta["only_here"]):
        click.echo(line, err=True)


def _steps(label: str, account: Account, only_here: Iterable[str]) -> list[str]:
    """What to do with it."""
    plist = shlex.quote(str(account.folder / f"{label}.plist"))
    logs, sudo = shlex.quote(str(account.log(label).parent)), "sudo " if account.boot else ""
    target = f"{account.domain}/{label}"
    rights = [f"  sudo chown root:wheel {plist} && sudo chmod 644 {plist}"] if account.boot else []
    return [
        *(
            f"Warning: {name} is set here, and not in the file: the job does not have it"
            for name in only_here
        ),
        f"Put it into {plist}, then:",
        *rights,
        f"  mkdir -p -m 700 {logs}",
        f"  {sudo}launchctl bootstrap {account.domain} {plist}",
        "To restart it, once its jobs are done or its grace is over:",
        f"  {sudo}launchctl kill SIGTERM {target}",
        "To end it:",
        f"  {sudo}launchctl bootout {target}",
    ]
