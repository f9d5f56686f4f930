"""Who is let in: whoever has a key, or, where there are no keys, whoever is on this machine.

Without keys nothing but the loopback interface keeps others out, and a browser on this machine would carry them in: a
page of anybody's can send requests to 127.0.0.1, and one whose own name was made to resolve to 127.0.0.1 (DNS
rebinding) can read the answers too, since the browser takes both for one origin. What such a page cannot forge is the
``Host`` that the browser sends, which is the page's, and the ``Origin``. So without keys both must be this machine's.
With keys neither matters: a page of others has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, current_app, g, request

from api.caller import Caller
from api.services import EXTENSION, Services, services
from scheduler.errors import ClientError, StoreUnavailable
from scheduler.keys import Keys
from scheduler.loopback import is_loopback
from scheduler.owner import owner_of, token_of

EXPOSED: Final = "EXPOSED"
"""Of the application's configuration: whether others than this machine's may reach it, so that it is never open."""

METRICS: Final = "/metrics"
"""Tells of load, and is asked above all while something is wrong: see :func:`_keys`."""

GUARDED: Final = ("/v1", METRICS)
"""Everything under these; what is outside says nothing of jobs."""

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^][:@/\\?#\s]+))(?::[0-9]*)?")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def install(app: Flask) -> None:
    """Guard an application; where it listens is what its settings say, until :func:`listen_on` knows better."""
    here: Services = app.extensions[EXTENSION]
    app.config[EXPOSED] = _exposed(here, [here.settings.host])
    app.before_request(_let_in)


def listen_on(app: Flask, hosts: Iterable[str]) -> None:
    """Take note of the addresses that the server listens on.

    Where the queue's server does not answer, it is too early to tell whether there are keys; so each request is asked
    for one.

    Raises:
        SettingsInvalid: one is beyond loopback, there is no key, and the operator did not say that this is meant.
    """
    here: Services = app.extensions[EXTENSION]
    app.config[EXPOSED] = _exposed(here, hosts)
    if app.config[EXPOSED]:
        with suppress(StoreUnavailable):
            here.lifecycle.keys.current().insist_on_some()


def asks_for_keys() -> bool | None:
    """Whether whoever has no key is refused; None where the queue's server, which knows, does not answer."""
    if current_app.config[EXPOSED]:
        return True
    try:
        return services().lifecycle.keys.current().any_stored
    except StoreUnavailable:
        return None


def _exposed(here: Services, hosts: Iterable[str]) -> bool:
    return not here.settings.open and not all(map(is_loopback, hosts))


def _let_in() -> None:
    """Before each request.

    Raises:
        ClientError: ``unauthorized``; ``forbidden``, where there are no keys.
        StoreUnavailable: whether there are is not known.
    """
    if not f"{request.path}/".startswith(tuple(f"{each}/" for each in GUARDED)):
        return
    here = services()
    authorization = request.headers.get("Authorization")
    keys = _keys(here)
    if keys.any_stored or current_app.config[EXPOSED]:
        key = here.lifecycle.keys.of_token(token_of(authorization), keys)
        g.caller = Caller(key.owner, key)
        return
    _insist_on_this_machine(here.settings.cors_origins)
    g.caller = Caller(owner_of(authorization))


def _keys(here: Services) -> Keys:
    """The keys that count now.

    Where the queue's server does not answer nobody is let in, since a key may have been removed. Only metrics, which then
    tell of this process alone, go by the keys that there were; where none were ever read, by there being none, if nobody
    but this machine's can come here.

    Raises:
        StoreUnavailable: it is not known which there are.
    """
    ring = here.lifecycle.keys
    if request.path != METRICS:
        return ring.current()
    try:
        return ring.last_known()
    except StoreUnavailable:
        if current_app.config[EXPOSED]:
            raise
        return Keys(any_stored=False)


def _insist_on_this_machine(origins: tuple[str, ...]) -> None:
    """Refuse what a browser sends for a page from elsewhere. Whoever sends no ``Host`` is no browser."""
    host = request.headers.get("Host")
    if host is not None and not _is_here(host):
        reason = f"without API keys only requests to a loopback name or address are answered, not to {host[:256]!r}"
        raise ClientError("forbidden", f"{reason}: make a key with `tidegate keys add`", param="Host")
    origin = request.headers.get("Origin")
    if origin is None or request.method in _SAFE_METHODS or {"*", origin.lower()} & {*origins}:
        return
    if not _is_of_here(origin):
        reason = f"without API keys a page of {origin[:256]!r} may do nothing here"
        raise ClientError("forbidden", f"{reason}, unless TIDEGATE_CORS_ORIGINS names it", param="Origin")


def _is_here(host: str) -> bool:
    named = _HOST.fullmatch(host)
    return named is not None and is_loopback(named[1] or named[2])


def _is_of_here(origin: str) -> bool:
    try:
        return _is_here(urlsplit(origin).netloc)
    except ValueError:
        return False
