"""Where a webhook may go: the rule on its URL, and on each address that its host's name stands for.

A client chooses the URL and this server connects, so an address that only this server reaches must not be one
(server-side request forgery). Names are judged by what they resolve to, at each delivery, on the very address that
is then connected to; a URL that is plainly amiss is refused when the job comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PORTS: Final = {"https": 443, "http": 80}
_VISIBLE: Final = re.compile(r"[!-~]+")
_ODD: Final = re.compile(r'[\\"<>^`{|}]')  # read in more than one way, or not a URL's by RFC 3986
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")  # inet_aton would read it as an address

_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # public by its number; in Azure it is the host's own service
    )
)
"""IANA's special-purpose registry of IPv4, multicast and what is reserved."""

_GLOBAL_6: Final = IPv6Network("2000::/3")
"""All that is unicast and assigned; loopback, unique local, link-local and multicast lie outside."""

_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20")
)  # IETF protocols (Teredo among them), documentation

_NAT64: Final = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook's URL, taken apart: what is connected to, and what is asked for there.

    Args:
        scheme: ``https`` or ``http``.
        host: a name in small letters, or an address without brackets.
        port: the URL's, or its scheme's.
        path: with the query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def read(cls, url: str) -> Target:
        """Take a URL apart.

        Raises:
            ValueError: it is not one that a webhook could have; the message says why, without the URL.
        """
        if not _VISIBLE.fullmatch(url) or _ODD.search(url):
            raise ValueError(
                "not a URL: it may have visible ASCII characters only, and others percent-encoded"
            )
        parts = urlsplit(url)
        if parts.scheme not in _PORTS:
            raise ValueError("the scheme must be https")
        if "@" in parts.netloc:
            raise ValueError("a user's name or password in it is not taken")
        host = _read_host(parts.hostname or "", bracketed=parts.netloc.startswith("["))
        try:
            port = parts.port
        except ValueError:
            port = 0
        if port == 0 or parts.netloc.endswith(":"):
            raise ValueError("its port is not a number from 1 to 65535")
        path = parts.path or "/"
        return cls(
            parts.scheme, host, port or _PORTS[parts.scheme], path + f"?{parts.query}" * bool(parts.query)
        )

    @property
    def literal(self) -> Address | None:
        """The host where it is an address."""
        return _address(self.host)

    @property
    def authority(self) -> str:
        """What stands in a ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an operator allows beside public addresses by https: networks, and hosts by name; both by http too."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Allowed:
        """Read a setting's entries.

        Raises:
            ValueError: one is neither an address, nor a network, nor a name.
        """
        networks, hosts = list[Network](), set[str]()
        for entry in entries:
            name = entry.lower().rstrip(".")
            try:
                networks.append(ip_network(entry, strict=False))
            except ValueError:
                if not _NAME.fullmatch(name) or _NUMBER.fullmatch(name):
                    raise ValueError(
                        f"{entry!r} is neither an address, a network nor a host's name"
                    ) from None
                hosts.add(name)
        return cls(tuple(networks), frozenset(hosts))

    def holds(self, address: Address) -> bool:
        """Whether an address lies in a network that is allowed."""
        return any(address in network for network in self.networks)


def is_public(address: Address) -> bool:
    """Whether an address is unicast on the Internet, and stands for no IPv4 address that is not."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.scope_id is not None:
        return False
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address in _GLOBAL_6 and not any(address in network for network in _NOT_PUBLIC_6)


def may_reach(target: Target, address: Address, allowed: Allowed) -> bool:
    """Whether a webhook may be sent to an address that its host is, or stands for."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # a connection to the one is a connection to the other
    if target.host in allowed.hosts or allowed.holds(address):
        return True
    return target.scheme == "https" and is_public(address)


def why_not(target: Target, allowed: Allowed) -> str | None:
    """Why a webhook can go nowhere, as far as that is plain without a look at what a name resolves to; else None."""
    if target.host in allowed.hosts:
        return None
    address = target.literal
    if address is None and (target.host == "localhost" or target.host.endswith(".localhost")):
        address = IPv4Address("127.0.0.1")
        if allowed.holds(IPv6Address("::1")):
            return None
    if address is not None and not (is_public(address) or may_reach(target, address, allowed)):
        return (
            "webhooks do not go to private, loopback, link-local or reserved addresses"
            " unless the operator names them in TIDEGATE_WEBHOOK_ALLOW"
        )
    if target.scheme == "http" and not (
        allowed.networks if address is None else may_reach(target, address, allowed)
    ):
        return "the scheme must be https, but for what the operator names in TIDEGATE_WEBHOOK_ALLOW"
    return None


def _read_host(host: str, *, bracketed: bool) -> str:
    host = host.removesuffix(".")
    address = _address(host)
    if isinstance(address, IPv6Address) and bracketed and address.scope_id is None:
        return str(address)
    if isinstance(address, IPv4Address) and not bracketed:
        return host
    if bracketed or _NUMBER.fullmatch(host):
        raise ValueError("its host is not an address as they are written")
    if not _NAME.fullmatch(host):
        raise ValueError(
            "its host is not a name; one with other letters is written in its ASCII form (xn--…)"
        )
    return host


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
