"""The queue's server as an operator names it: what is none is refused when settings are read, not at the first job. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

_SCHEMES: Final = frozenset({"redis", "rediss", "unix"})


def read_server_url(url: str) -> str:
    """The URL, as it is.

    Raises:
        ValueError: it names no server; the message has no part of the URL, which may have a password in it.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("it is no URL, or its port is no number up to 65535") from None
    if parts.scheme not in _SCHEMES or "://" not in url:
        raise ValueError("a server's URL begins with redis://, rediss:// or unix://")
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("the path of a socket follows unix://")
    return url
