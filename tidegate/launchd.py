"""What launchd is told of a Mac's worker, of the API, or of `tidegate up`: a property list each. Pure.

Sources: ``launchd.plist(5)``, ``launchctl(1)``, ``caffeinate(8)``. A job is an agent of a user's, started at login, or
a daemon of the system's, started at boot as a user. Metal needs no login: MLX takes its device from
``MTLCopyAllDevices`` (``backend/metal/device.cpp``), which sees the GPU where ``MTLCreateSystemDefaultDevice`` does not.

The program is the job's own process, and no ``caffeinate`` or shell around it: launchd's SIGTERM goes to that one
alone, and what is left of its group is killed when it is gone.
"""

from __future__ import annotations

import math
import plistlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scheduler.settings import Settings
from tidegate import embedded, programs
from tidegate.host_checks import CONNECTIONS

PROGRAMS: Final = ("worker", "api", "up")

UMASK: Final = 0o077
"""Integers of a property list are decimal: 63."""

THROTTLE_SECONDS: Final = 10
"""Between two starts: launchd's own default, in which a server that is away may come back."""

_SPARE_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Account:
    """Whose job it is.

    Args:
        name: the user's.
        home: its folder.
        boot: whether it is the system's daemon, run as that user; else the user's own agent.
    """

    name: str
    home: Path
    boot: bool

    @property
    def folder(self) -> Path:
        """Where the property list belongs."""
        return Path("/Library/LaunchDaemons") if self.boot else self.home / "Library" / "LaunchAgents"

    @property
    def domain(self) -> str:
        """As ``launchctl`` has it, in a shell of that user's."""
        return "system" if self.boot else "gui/$(id -u)"

    def log(self, label: str) -> Path:
        """Where the job's output goes; a path without spaces, which ``newsyslog.conf`` could not name."""
        return self.home / "Library" / "Logs" / "tidegate" / f"{label}.log"


def grace_seconds(program: str, settings: Settings) -> int:
    """How long a program may take to end: launchd's own patience is 5 s.

    `up` ends what it started one after another.
    """
    worker = settings.shutdown_grace + programs.WORKER_GRACE_SECONDS
    api = programs.API_GRACE_SECONDS
    seconds = {"worker": worker, "api": api, "up": worker + api + embedded.STOP_SECONDS}[program]
    return math.ceil(seconds) + _SPARE_SECONDS


def job(
    program: str, settings: Settings, settings_file: Path, account: Account, label: str
) -> Mapping[str, Any]:
    """A job's keys and values; none of the settings is among them.

    Args:
        program: one of :data:`PROGRAMS`.
        settings: whose grace it has.
        settings_file: read by the program itself when it starts.
        account: whose it is.
        label: its name to launchd.
    """
    log = str(account.log(label))
    made: dict[str, Any] = {
        "Label": label,
        "ProgramArguments": list(programs.own_command("--settings", str(settings_file), program)),
        "EnvironmentVariables": {"PYTHONUNBUFFERED": "1", "HOME": str(account.home)},
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": THROTTLE_SECONDS,
        "ExitTimeOut": grace_seconds(program, settings),
        "ProcessType": "Interactive",  # any other is throttled, in CPU and disk
        "SoftResourceLimits": {"NumberOfFiles": CONNECTIONS},
        "Umask": UMASK,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return made | ({"UserName": account.name} if account.boot else {})


def dump(made: Mapping[str, Any]) -> str:
    """As a property list."""
    return plistlib.dumps(dict(made), sort_keys=False).decode()
