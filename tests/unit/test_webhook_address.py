"""Where webhooks may go: URLs as clients write them, addresses as resolvers answer them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from scheduler.webhook_address import Allowed, Target, is_public, may_reach, why_not

NOTHING = Allowed.of(())
HTTPS = Target.read("https://hooks.example/")
HTTP = Target.read("http://hooks.example/")

NOT_PUBLIC = {
    "this network": ("0.0.0.0/8",),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    "shared between providers": ("100.64.0.0/10",),
    "loopback": ("127.0.0.0/8", "::1/128"),
    "unspecified": ("0.0.0.0/32", "::/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "protocols": ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "5f00::/16"),
    "documentation": ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
    "benchmarks": ("198.18.0.0/15", "2001:2::/48"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": ("240.0.0.0/4", "255.255.255.255/32", "4000::/3", "::/96", "fec0::/10", "100::/64"),
    "translated by whom it pleases": ("64:ff9b:1::/48", "::ffff:0:0:0/96", "2001::/32"),
    "the clouds' own": ("168.63.129.16/32", "169.254.169.254/32", "fd00:ec2::254/128", "100.100.100.200/32"),
}


@pytest.mark.parametrize(
    "text",
    [
        f"{network[side]}"
        for many in NOT_PUBLIC.values()
        for network in map(ip_network, many)
        for side in (0, -1)
    ],
)
def test_an_address_that_is_not_public_is_not_reached(text: str) -> None:
    """The first and the last of each such network, by either scheme; an IPv4 one in every IPv6 that stands for it."""
    address = ip_address(text)
    forms = [address]
    if address.version == 4:
        number = int(address)
        forms += [ip_address(f"::ffff:{text}"), ip_address(int(ip_address("64:ff9b::")) + number)]
        forms += [ip_address(int(ip_address("2002::")) + (number << 80) + 1)]
    for form in forms:
        assert not is_public(form), form
        assert not may_reach(HTTPS, form, NOTHING)
        assert not may_reach(HTTP, form, NOTHING)


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "223.255.255.255",
        "168.63.129.17",
        "2606:4700::1111",
        "2a00::1",
        "2001:200::",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
        "2002:101:101::1",
    ],
)
def test_a_public_address_is_reached_by_https_alone(text: str) -> None:
    """Those beside the networks that are not; the IPv4 ones inside IPv6 likewise."""
    assert is_public(ip_address(text))
    assert may_reach(HTTPS, ip_address(text), NOTHING)
    assert not may_reach(HTTP, ip_address(text), NOTHING)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "2606:4700::1111%eth0", "::1%lo"])
def test_an_address_of_one_link_is_not_reached(text: str) -> None:
    """Whatever its number: a zone says that it is meant here."""
    assert not may_reach(HTTPS, ip_address(text), NOTHING)


def test_what_an_operator_allows_is_reached_by_both_schemes() -> None:
    """A network, one address, a host by its name in any spelling; and nothing beside them."""
    allowed = Allowed.of(("10.1.0.0/16", "192.168.0.7", "fd00::/8", "Inside.Example."))
    for text in ("10.1.0.0", "10.1.255.255", "192.168.0.7", "fd00::1", "::ffff:10.1.2.3"):
        assert may_reach(HTTPS, ip_address(text), allowed)
        assert may_reach(HTTP, ip_address(text), allowed)
    for text in ("10.2.0.0", "192.168.0.8", "127.0.0.1", "fc00::1", "64:ff9b::10.1.2.3", "::ffff:10.2.0.0"):
        assert not may_reach(HTTPS, ip_address(text), allowed)
    for url in ("http://inside.example/", "https://INSIDE.example.:8443/x"):
        assert may_reach(Target.read(url), ip_address("127.0.0.1"), allowed)
    assert not may_reach(Target.read("https://not-inside.example/"), ip_address("127.0.0.1"), allowed)


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "300.1.1.1", "a b", "https://a.example", "*", "-a.example", "1.2.3", ""]
)
def test_an_operators_entry_that_is_no_place_is_refused(entry: str) -> None:
    """Rather than allow nothing, or more than was meant."""
    with pytest.raises(ValueError, match="neither an address, a network nor a host's name"):
        Allowed.of((entry,))


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a.example", ("https", "a.example", 443, "/", "a.example")),
        ("HTTPS://A.Example.:8443/p?q=1&r#f", ("https", "a.example", 8443, "/p?q=1&r", "a.example:8443")),
        ("http://a.example:80", ("http", "a.example", 80, "/", "a.example")),
        ("https://a.example?q", ("https", "a.example", 443, "/?q", "a.example")),
        ("https://1.1.1.1:1/", ("https", "1.1.1.1", 1, "/", "1.1.1.1:1")),
        ("https://[2606:4700:0::1111]/", ("https", "2606:4700::1111", 443, "/", "[2606:4700::1111]")),
        ("https://[::ffff:1.1.1.1]:444/", ("https", "::ffff:101:101", 444, "/", "[::ffff:101:101]:444")),
        (
            "https://xn--bcher-kva.example/%20",
            ("https", "xn--bcher-kva.example", 443, "/%20", "xn--bcher-kva.example"),
        ),
        ("https://_a.b-c.example/", ("https", "_a.b-c.example", 443, "/", "_a.b-c.example")),
    ],
)
def test_a_url_is_taken_apart(url: str, target: tuple[str, str, int, str, str]) -> None:
    """Scheme, host, port, path with its query, and what the Host header says."""
    read = Target.read(url)
    host = str(ip_address(read.host)) if ":" in read.host else read.host
    assert (read.scheme, host, read.port, read.path) == (target[0], str(_shown(target[1])), *target[2:4])
    assert read.authority.replace(read.host, host) == target[4].replace(target[1], host)


def _shown(host: str) -> object:
    return ip_address(host) if ":" in host else host


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "a",
        "a.example",
        "//a.example",
        "https:",
        "https:/a.example",
        "https://",
        "https:///p",
        "https://:443/",
        "ftp://a.example",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "gopher://a.example/",
        "httpss://a.example",
        "https://user@a.example",
        "https://user:pass@a.example",
        "https://:@a.example",
        "https://a.example@b.example",
        "https://a.example:0",
        "https://a.example:65536",
        "https://a.example:-1",
        "https://a.example:x",
        "https://a.example:",
        "https://a b.example",
        "https://a.example/ b",
        "https://a.example/\n",
        "\thttps://a.example",
        "https://a.exam\nple",
        "https://a.example\\@b.example",
        "https://a.example/\\",
        "https://bücher.example",
        "https://１.1.1.1",
        "https://a..example",
        "https://-a.example",
        "https://a-.example",
        "https://a.example/<x>",
        "https://a%2eexample",
        f"https://{'a' * 64}.example",
        f"https://{'a.' * 127}example",
        "https://2130706433",
        "https://0x7f000001",
        "https://127.1",
        "https://0177.0.0.1",
        "https://127.0.0.1.1",
        "https://1.1.1.256",
        "https://a.0x7f",
        "https://0x",
        "https://[127.0.0.1]",
        "https://[a.example]",
        "https://[::1",
        "https://[::1%25lo]/",
        "https://[::1%lo]/",
        "https://[v1.a]/",
        "https://::1/",
        "https://[]/",
    ],
)
def test_a_url_that_may_be_read_in_two_ways_is_not_read(url: str) -> None:
    """Nor one without a host, with another scheme, with a name and a password; the reason does not repeat it."""
    with pytest.raises(ValueError, match=r".") as refused:
        Target.read(url)
    assert len(url) < 8 or url not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "entries", "refused"),
    [
        ("https://a.example", (), False),
        ("https://1.1.1.1", (), False),
        ("https://10.0.0.1", (), True),
        ("https://[::1]", (), True),
        ("https://[::ffff:127.0.0.1]", (), True),
        ("https://localhost", (), True),
        ("https://LOCALHOST.", (), True),
        ("https://a.localhost", (), True),
        ("https://localhost", ("127.0.0.0/8",), False),
        ("https://localhost", ("::1",), False),
        ("https://localhost", ("localhost",), False),
        ("https://a.localhost", ("localhost",), True),
        ("https://10.0.0.1", ("10.0.0.0/8",), False),
        ("https://10.0.0.1", ("10.1.0.0/16",), True),
        ("http://a.example", (), True),
        ("http://a.example", ("b.example",), True),
        ("http://a.example", ("a.example",), False),
        (
            "http://a.example",
            ("10.0.0.0/8",),
            False,
        ),  # it may be there: its address is looked at when it is sent
        ("http://1.1.1.1", ("10.0.0.0/8",), True),
        ("http://1.1.1.1", ("1.1.1.1",), False),
        ("http://10.0.0.1", ("10.0.0.0/8",), False),
        ("http://10.0.0.1", (), True),
    ],
)
def test_what_plainly_goes_nowhere_is_refused_at_once(
    url: str, entries: tuple[str, ...], refused: bool
) -> None:
    """By its scheme, its literal address, or as a name for this machine; other names are looked at when it is sent."""
    assert (why_not(Target.read(url), Allowed.of(entries)) is not None) is refused
