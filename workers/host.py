"""Which host this is, and which of its processes live: what workers that share memory tell each other by.

Each source is a function of its own, so that a test can give recorded values where there is no such host.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import uuid
from pathlib import Path
from typing import Final

import psutil

from scheduler.host_share import Share

_PROC: Final = Path("/proc")
_ID: Final = re.compile(r"[0-9a-fA-F-]{8,64}")
_RANDOM_NODE: Final = 1 << 40
"""The bit of :func:`uuid.getnode` that says that no hardware address was found, and one was drawn."""


def host_name() -> str:
    """A name that all processes on a host see alike, containers too, and those on no other host.

    Linux and macOS name each boot. Elsewhere it is the network card's address, or else the host's own name.
    """
    found = linux_boot(_PROC) if platform.system() != "Darwin" else mac_boot(_sysctl("kern.bootsessionuuid"))
    if found:
        return found
    node = uuid.getnode()
    return socket.gethostname() if node & _RANDOM_NODE else f"node-{node:012x}"


def linux_boot(proc: Path) -> str:
    """Linux's name for this boot; empty where there is none."""
    try:
        text = (proc / "sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError):
        return ""
    return text.lower() if _ID.fullmatch(text) else ""


def mac_boot(said: str) -> str:
    """A Mac's name for this boot, of what ``sysctl -n kern.bootsessionuuid`` said; empty where it is none."""
    text = said.strip()
    return text.lower() if _ID.fullmatch(text) else ""


def pid_space() -> str:
    """The namespace in which this process has its number; empty where it is not known.

    Containers number their processes from 1. A Mac has one space for all.
    """
    return "mac" if platform.system() == "Darwin" else linux_pid_space(_PROC)


def linux_pid_space(proc: Path) -> str:
    """Linux's, e.g. ``pid:[4026531836]``."""
    try:
        return str((proc / "self/ns/pid").readlink())
    except OSError:
        return ""


def is_gone(share: Share) -> bool:
    """Whether the process that holds a share is seen to be no more; one in another namespace never is.

    Another share of this process's own number is a dead one's: a container that is started again may get the
    namespace's number and the process's of the one before it.
    """
    if not share.pid_space or share.pid_space != pid_space():
        return False
    if share.pid == os.getpid():
        return True
    try:
        return psutil.Process(share.pid).status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return True
    except psutil.AccessDenied:
        return False


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
