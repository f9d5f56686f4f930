"""Whether a host is this machine and nothing else: by its name or its address, without asking anybody."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether whoever speaks to ``host`` speaks to the machine it is on.

    Names are `localhost` and those under it, which resolve to loopback everywhere (RFC 6761); others are not looked
    up. An address that means all of a machine's, such as ``0.0.0.0``, is none.

    Args:
        host: a name, or an address without brackets.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
