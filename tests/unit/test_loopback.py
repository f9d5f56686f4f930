"""Which hosts are this machine."""

from __future__ import annotations

import pytest

from scheduler.loopback import is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.8.7",
        "::1",
        "0:0:0:0:0:0:0:1",
        "localhost",
        "LocalHost",
        "localhost.",
        "api.localhost",
    ],
)
def test_loopback_is_this_machine(host: str) -> None:
    """Addresses and the names that RFC 6761 keeps for it."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "10.0.0.7",
        "2001:db8::1",
        "example.org",
        "127.0.0.1.example.org",
        "localhost.example.org",
        "notlocalhost",
        "",
        "127.1",
        "2130706433",
        "0x7f.1",
    ],
)
def test_nothing_else_is(host: str) -> None:
    """All of a machine's addresses, others' names, and what resolvers alone take for an address."""
    assert not is_loopback(host)
