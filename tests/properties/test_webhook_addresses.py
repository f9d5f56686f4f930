"""For every address, and whatever a client calls a URL: nothing private is reached, nothing breaks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.webhook_address import Allowed, Target, is_public, may_reach, why_not

NOTHING = Allowed.of(())
NAT64 = IPv6Network("64:ff9b::/96")


def embedded(address: IPv4Address) -> list[IPv6Address]:
    """The IPv6 addresses behind which an IPv4 one is reached: mapped, by NAT64, by 6to4."""
    number = int(address)
    prefixes = {"::ffff:0:0": number, "64:ff9b::": number, "2002::": number << 80}
    return [IPv6Address(int(IPv6Address(prefix)) + each) for prefix, each in prefixes.items()]


@given(st.ip_addresses(v=4))
@example(IPv4Address("127.0.0.1"))
@example(IPv4Address("224.0.0.1"))
def test_no_public_ipv4_address_is_special_by_another_table(address: IPv4Address) -> None:
    """Python's own table agrees; and in every IPv6 form the answer is the same."""
    odd = address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local
    if is_public(address):
        assert address.is_global
        assert not (odd or address.is_private or address.is_unspecified)
    assert {is_public(form) for form in embedded(address)} == {is_public(address)}


@given(st.ip_addresses(v=6))
@example(IPv6Address("::1"))
@example(IPv6Address("fe80::1"))
def test_no_public_ipv6_address_is_special_by_another_table(address: IPv6Address) -> None:
    """As above; what stands for an IPv4 address is judged by that."""
    inner = address.ipv4_mapped or address.sixtofour or address in NAT64
    if is_public(address) and not inner:
        assert address.is_global
        assert not (
            address.is_multicast or address.is_reserved or address.is_private or address.is_site_local
        )


hosts = st.one_of(
    st.from_regex(r"[a-z0-9.x\[\]:%-]{0,20}", fullmatch=True), st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"), st.just("localhost"),
)  # fmt: skip
urls = st.one_of(
    st.text(),
    st.builds(
        lambda scheme, user, host, rest: f"{scheme}://{user}{host}{rest}",
        st.sampled_from(["https", "http", "HTTPS", "ftp"]),
        st.sampled_from(["", "", "a@", "a:b@"]),
        hosts,
        st.sampled_from(["", "/", ":443", ":0/", "/p?q", "#f", ":99999", "\\", "/ "]),
    ),
)


@given(urls)
@example("https://[::ffff:127.0.0.1]")
@example("https://[")
def test_a_url_is_read_or_refused(url: str) -> None:
    """Nothing else is raised; what was read has one host, which is an address or cannot be taken for one."""
    try:
        target = Target.read(url)
    except ValueError:
        return
    assert target.scheme in {"https", "http"}
    assert 0 < target.port < 65536
    assert target.path.startswith("/")
    assert "@" not in target.authority
    address = target.literal
    if address is None:
        assert not target.host.rpartition(".")[2].isdigit()
    elif why_not(target, NOTHING) is None:
        assert is_public(address)
    if address is not None:
        assert may_reach(target, address, NOTHING) is (why_not(target, NOTHING) is None)
