"""Several hosts on one machine: network namespaces with addresses and names of their own, whose links can be cut.

A cut link is silent, as a pulled cable's is: what is sent does not arrive, and nobody is told. It is made by giving
each of the two hosts a wrong hardware address for the other, so every other link stays as it was. All of it lives
in the namespaces that :func:`inside_command` makes, which takes no privilege where Linux lets users have some of their own;
they end with the process that it starts, and so does whatever still runs in them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

OBSERVER: Final = "observer"
"""The host that the process in the namespaces itself is."""

_NETWORK: Final = "10.77.0"
"""Nothing outside of the namespaces has, or sees, these addresses."""

_NOBODY: Final = "02:00:00:00:00:01"
"""A hardware address that no host has."""

_UNSHARE: Final = (
    *("unshare", "--map-root-user", "--net", "--mount", "--pid", "--mount-proc"),
    *("--fork", "--kill-child"),
)
_NAMED: Final = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')


def possible() -> bool:
    """Whether this process may have namespaces of its own, and can make links in them."""
    command = inside_command("ip", "link", "add", "hub", "type", "bridge")
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def inside_command(*command: str) -> tuple[str, ...]:
    """A command line that runs ``command`` in new namespaces, in which it may make a :class:`Lan`."""
    return (*_UNSHARE, *command)


class Lan:
    """The hosts, and the links between them; to be made once, by a process that :func:`inside_command` started.

    Args:
        hosts: their names; the observer is one more.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts: Final = (OBSERVER, *hosts)
        _mount_own_names()
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "hub", "type", "bridge")
        _ip("link", "set", "hub", "up")
        _ip("address", "add", f"{self.address(OBSERVER)}/24", "dev", "hub")
        for host in hosts:
            _ip("netns", "add", host)
            port = f"port{self.hosts.index(host)}"
            _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("link", "set", port, "master", "hub", "up")
            _ip("-n", host, "link", "set", "lo", "up")
            _ip("-n", host, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")

    def address(self, host: str) -> str:
        """A host's address on the network."""
        return f"{_NETWORK}.{self.hosts.index(host) + 1}"

    def command(self, host: str, command: Iterable[str]) -> tuple[str, ...]:
        """A command line that runs ``command`` on a host; its process id is the command's own."""
        return ("ip", "netns", "exec", host, *_NAMED, host, *command)

    def cut(self, one: str, other: str) -> None:
        """From now on nothing passes between two hosts."""
        for here, there in ((one, other), (other, one)):
            link = ("neigh", "replace", self.address(there), "lladdr", _NOBODY, "nud", "permanent")
            _ip(*_at(here), *link, "dev", _device(here))

    def heal(self, one: str, other: str) -> None:
        """What was cut passes again."""
        for here, there in ((one, other), (other, one)):
            _ip(*_at(here), "neigh", "delete", self.address(there), "dev", _device(here))


def _at(host: str) -> tuple[str, ...]:
    return () if host == OBSERVER else ("-n", host)


def _device(host: str) -> str:
    return "hub" if host == OBSERVER else "eth0"


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, stdin=subprocess.DEVNULL)


def _mount_own_names() -> None:
    """The folder in which ``ip`` keeps its namespaces' names: one that is seen in these namespaces only."""
    names = Path("/run/netns")
    if not names.is_dir():  # /run itself may be another's: put one of our own over it
        subprocess.run(("mount", "-t", "tmpfs", "tmpfs", "/run"), check=True)
        names.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "tmpfs", os.fspath(names)), check=True)
