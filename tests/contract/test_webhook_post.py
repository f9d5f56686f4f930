"""One webhook's request: to no address that it may not go to, and for no longer than it has."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api import webhook_post
from api.webhook_post import NotAnswered, post
from scheduler.webhook_address import Allowed, Target
from tests.contract.receiver import Receiver, receiving

LOOPBACK = Allowed.of(("127.0.0.0/8",))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks go."""
    with receiving() as made:
        yield made


Resolver = Callable[[str], list[str]]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Resolver], list[str]]:
    """Pretend a resolver; the names that it was asked for."""

    def pretend(answers: Resolver) -> list[str]:
        asked, real = list[str](), socket.getaddrinfo

        def getaddrinfo(host: str, port: int, *more: Any, **options: Any) -> Any:
            if host[0].isdigit() or ":" in host:
                return real(host, port, *more, **options)
            asked.append(host)
            return [entry for each in answers(host) for entry in real(each, port, type=socket.SOCK_STREAM)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return pretend


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that connections are made to; those on other machines take none."""
    made, real = list[str](), socket.create_connection

    def create_connection(address: tuple[str, int], *more: Any, **options: Any) -> socket.socket:
        made.append(address[0])
        if not address[0].startswith("127."):
            raise ConnectionRefusedError
        return real(address, *more, **options)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    return made


def test_a_name_is_resolved_once_and_what_it_was_is_connected_to(
    resolve: Callable[[Resolver], list[str]], connects: list[str]
) -> None:
    """A resolver that says something else the second time is not asked a second time (DNS rebinding)."""
    turns = iter([["1.1.1.1"], ["127.0.0.1"]])
    asked = resolve(lambda _: next(turns))
    with pytest.raises(NotAnswered, match="takes no connection"):
        post(Target.read("https://rebinds.example/"), {}, b"{}", Allowed())
    assert (asked, connects) == (["rebinds.example"], ["1.1.1.1"])
    with pytest.raises(NotAnswered, match="nowhere that webhooks may go"):
        post(Target.read("https://rebinds.example/"), {}, b"{}", Allowed())
    assert connects == ["1.1.1.1"]


def test_of_many_addresses_those_are_tried_that_may_be(
    receiver: Receiver, resolve: Callable[[Resolver], list[str]], connects: list[str]
) -> None:
    """In the resolver's order, until one takes the connection; by http only what the operator allows."""
    resolve(lambda _: ["1.1.1.1", "10.0.0.1", "127.0.0.1", "127.0.0.1", "192.168.0.1"])
    with pytest.raises(NotAnswered):
        post(Target.read(f"https://hooks.example:{receiver.port}/"), {}, b"{}", Allowed.of(("10.0.0.0/8",)))
    assert connects == ["1.1.1.1", "10.0.0.1"]
    connects.clear()
    reply = post(Target.read(f"http://hooks.example:{receiver.port}/"), {}, b"{}", LOOPBACK)
    assert (reply.status, connects) == (200, ["127.0.0.1"])
    assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    resolve: Callable[[Resolver], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four are tried; each but the last has five seconds of the fifteen at most."""
    given = list[tuple[str, float]]()

    def create_connection(address: tuple[str, int], seconds: float, **_: Any) -> socket.socket:
        given.append((address[0], seconds))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", create_connection)
    resolve(lambda _: [f"1.1.1.{number}" for number in range(1, 10)])
    with pytest.raises(NotAnswered, match="no answer within 15 s"):
        post(Target.read("https://hooks.example/"), {}, b"{}", Allowed())
    assert [address for address, _ in given] == [f"1.1.1.{number}" for number in range(1, 5)]
    assert [seconds for _, seconds in given[:-1]] == [5.0] * 3
    assert 10 < given[-1][1] < 15


def test_a_look_up_that_takes_too_long_is_not_followed_by_a_connection(
    resolve: Callable[[Resolver], list[str]], connects: list[str]
) -> None:
    """The time is over: a delivery's lease would lapse while it is sent."""
    resolve(lambda _: time.sleep(0.02) or ["1.1.1.1"])
    with pytest.raises(NotAnswered, match="no answer within"):
        post(Target.read("https://hooks.example/"), {}, b"{}", Allowed(), seconds=0.01)
    assert connects == []


@pytest.mark.parametrize("url", ["http://2130706433/", "http://0x7f.1/", "http://127.1/"])
def test_an_address_written_oddly_is_looked_at_as_what_it_is(url: str, connects: list[str]) -> None:
    """Were it let in, the resolver would read it: what is connected to is judged, not what it is called."""
    target = Target("https", url.removeprefix("http://").rstrip("/"), 443, "/")
    with pytest.raises(NotAnswered, match=r"nowhere|resolve"):
        post(target, {}, b"{}", Allowed())
    assert connects == []


@pytest.mark.parametrize("name", ["does-not-exist.invalid", "a" * 64 + ".example", "xn--a.example" * 30])
def test_a_name_that_does_not_resolve_is_a_failure_like_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said as such."""

    def getaddrinfo(host: str, *_: Any, **__: Any) -> Any:
        host.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(NotAnswered, match="does not resolve"):
        post(Target("https", name, 443, "/"), {}, b"{}", Allowed())


def answering(raw: list[bytes], pause_seconds: float = 0.0) -> tuple[str, socket.socket]:
    """A server that says raw pieces to one client, whatever it asks."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            with listener.accept()[0] as client:
                client.recv(65536)
                for piece in raw:
                    client.sendall(piece)
                    time.sleep(pause_seconds)
        except OSError:
            pass  # the client left, as it should

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/", listener


@pytest.mark.parametrize(
    "raw",
    [
        [b"HTTP/1.1 200 OK\r\n", *[b"a: b\r\n"] * 200],
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * 200,
        [b"x" for _ in range(200)],
    ],
)
def test_an_answer_that_trickles_in_has_the_same_time(raw: list[bytes]) -> None:
    """The time is for all of it, not for each piece."""
    url, listener = answering(raw, 0.05)
    began = time.monotonic()
    with listener, pytest.raises(NotAnswered, match=r"no answer within 0\.5 s|not one of HTTP"):
        post(Target.read(url), {}, b"{}", LOOPBACK, seconds=0.5)
    assert time.monotonic() - began < 3


def test_a_body_without_an_end_is_not_read_to_it() -> None:
    """The status is what counts: a little is read, for no longer than there is time."""
    url, listener = answering([b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 500], 0.01)
    began = time.monotonic()
    with listener:
        assert post(Target.read(url), {}, b"{}", LOOPBACK).status == 200
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "raw", [[b"SSH-2.0-OpenSSH\r\n"], [b""], [b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"], [b"\x00" * 200_000]]
)
def test_what_is_no_answer_is_a_failure(raw: list[bytes]) -> None:
    """Whatever speaks there."""
    url, listener = answering(raw)
    with listener, pytest.raises(NotAnswered, match=r"not one of HTTP|connection broke"):
        post(Target.read(url), {}, b"{}", LOOPBACK)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_checks_the_name_and_not_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolve: Callable[[Resolver], list[str]]
) -> None:
    """The certificate must be the name's, which the server is told of; the connection goes where it was looked up."""
    made = (
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        "key",
        "-out",
        "cert",
    )
    about = ("-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example")
    subprocess.run((*made, *about), cwd=tmp_path, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    told = list[str | None]()
    server.sni_callback = lambda _, name, __: told.append(name)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert"))
    monkeypatch.setattr(webhook_post, "_tls", lambda: trusting)
    resolve(lambda _: ["127.0.0.1"])
    with receiving(server) as receiver:
        url = f"https://{{}}:{receiver.port}/hook"
        assert post(Target.read(url.format("hooks.example")), {}, b"{}", LOOPBACK).status == 200
        assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
        with pytest.raises(NotAnswered, match="certificate is not valid"):
            post(Target.read(url.format("other.example")), {}, b"{}", LOOPBACK)
    assert told == ["hooks.example", "other.example"]
    assert len(receiver.requests) == 1
