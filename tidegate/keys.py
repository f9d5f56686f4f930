"""`tidegate keys`: makes, lists, changes and removes API keys, on the queue's own server."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from typing import Any, Final

import click
import redis
from pydantic import ValidationError
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler.errors import ClientError, SettingsInvalid, TidegateError
from scheduler.job import PRIORITIES
from scheduler.keyring import FRESH_SECONDS, KeyBook
from scheduler.keys import TOKENS_PER_MINUTE_MOST, Key, Keys, new_key
from scheduler.loopback import is_loopback
from scheduler.settings import Settings
from tidegate.embedded import embedded_server, insist_on_queue
from tidegate.reporting import json_option
from tidegate.terminal import Terminal

_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

Command = Callable[..., None]


def _moment(_: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Unix seconds of a time from now, a date or a time (ISO 8601; this machine's where it names no zone); None: never."""
    if text in {None, "never"}:
        return None
    if span := re.fullmatch(r"([0-9]{1,6})([mhdw])", text or ""):
        return time.time() + int(span[1]) * _UNITS[span[2]]
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is none of: 12h, 30d, a date, never", param=param) from None


def _limits(command: Command) -> Command:
    """The options of what a key may do; each is None, or empty, where it was not given."""
    options = (
        click.option("--name", help="Whose it is, or what for."),
        click.option(
            "--queued-jobs", type=click.IntRange(0, 1 << 31), help="How many of its jobs may wait; 0: any."
        ),
        click.option(
            "--tokens-per-minute",
            type=click.IntRange(0, TOKENS_PER_MINUTE_MOST),
            help="Prompt and max_tokens of the jobs that it may submit; 0: any.",
        ),
        click.option("--model", "models", multiple=True, help="A model that it may use, once for each."),
        click.option(
            "--priority",
            "priorities",
            multiple=True,
            type=click.Choice(PRIORITIES),
            help="A class of jobs that it may submit, once for each.",
        ),
        click.option("--expires", callback=_moment, help="12h, 30d, a date, or never."),
        click.option(
            "--all/--own", "sees_all", default=None, help="See and cancel everybody's jobs, or its own."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def keys() -> None:
    """Make, list, change and remove API keys.

    While there is one, every request needs one; a change counts within a second or so. A key without limits may do
    anything but see others' jobs.
    """


@keys.command()
@_limits
@json_option("Print the key as JSON, its token with it.")
@click.pass_obj
def add(settings: Settings, /, as_json: bool, **limits: Any) -> None:
    """Make a key, and print its token: the only time that it is shown."""
    with _book(settings) as book:
        first = not book.read()[0].any_stored
        with _within_range():
            token, key = new_key(time.time(), **_given(limits))
        if not book.add(key):
            raise TidegateError("a key of that kind is there already; try again")
    click.echo(json.dumps({"token": token} | key.view()) if as_json else token)
    terminal = Terminal()
    terminal.note("keep it: only its digest is stored, and it is not shown again")
    _note_models_not_served(settings, key, terminal)
    if first:
        terminal.note(
            "it is the first: from now on every request needs a key, those of the `tidegate` command too: "
            "export TIDEGATE_API_KEY with one"
        )


@keys.command("list")
@json_option("Print one key a line, as JSON.")
@click.pass_obj
def show(settings: Settings, as_json: bool) -> None:
    """List the keys, oldest first, by the beginnings of their tokens."""
    with _book(settings) as book:
        found, unreadable = book.read()
    ordered = sorted(found.by_owner.values(), key=lambda key: key.created_at)
    terminal = Terminal()
    if not as_json:
        terminal.keys(ordered, time.time())
    for key in ordered if as_json else ():
        click.echo(json.dumps(key.view()))
    for owner in unreadable:
        terminal.note(f"the entry {owner!r} is no key; it opens nothing: `tidegate keys remove` removes it")


@keys.command()
@click.argument("key", metavar="KEY")
@_limits
@click.option("--any-model", is_flag=True, help="It may use every model.")
@click.option("--any-priority", is_flag=True, help="It may submit jobs of every class.")
@json_option("Print the key as JSON.")
@click.pass_obj
def change(
    settings: Settings, /, key: str, any_model: bool, any_priority: bool, as_json: bool, **limits: Any
) -> None:
    """Change what KEY may do, named by its beginning or its name; what is not given stays."""
    fields = _given(limits)
    fields |= ({"models": ()} if any_model else {}) | ({"priorities": ()} if any_priority else {})
    with _book(settings) as book:
        before = _named(book.read()[0], key)
        with _within_range():
            after = before.changed(**fields)
        if not book.change(after):
            raise TidegateError(f"{before.prefix} was removed meanwhile")
    if as_json:
        click.echo(json.dumps(after.view()))
    else:
        Terminal().keys([after], time.time())


@keys.command()
@click.argument("key", metavar="KEY")
@json_option("Print what was removed as JSON: removed, and whether a key is left.")
@click.pass_obj
def remove(settings: Settings, key: str, as_json: bool) -> None:
    """Remove KEY, named by its beginning or its name.

    It opens nothing more within a second or so; what it submitted goes on, and streams that are open too.
    """
    with _book(settings) as book:
        found, unreadable = book.read()
        owner = key if key in unreadable else _named(found, key).owner
        if not book.remove(owner):
            raise TidegateError(f"{key} is gone already")
        last = not book.read()[0].any_stored
    if as_json:
        click.echo(json.dumps({"removed": key, "keys_left": not last}))
    terminal = Terminal()
    terminal.note(f"removed; it stops working within {FRESH_SECONDS:g} s or so")
    if last:
        terminal.note("no key is left: an API on loopback is open again, any other lets nobody in")


def _note_models_not_served(settings: Settings, key: Key, terminal: Terminal) -> None:
    """Say so where a key is for models that are not named here: other hosts' workers may serve them yet."""
    served = settings.model_sources
    others = [model for model in key.models if model not in served]
    if served and others:
        names = ", ".join(map(repr, others))
        terminal.note(f"not in TIDEGATE_MODELS here: {names}; served are {', '.join(served)}")


def insist_on_keys(settings: Settings, host: str) -> None:
    """See to it that the API may listen on a host: without keys, on loopback only.

    Where the queue's server does not answer, the API finds out for itself.

    Raises:
        SettingsInvalid: it may not.
    """
    if settings.open or all(map(is_loopback, _addresses(host))):
        return
    with suppress(redis.RedisError):
        _keys(settings).insist_on_some()


def asks_for_keys(settings: Settings) -> bool:
    """Whether there are keys, so that the API asks for one."""
    return _keys(settings).any_stored


def insist_on_own_key(settings: Settings) -> None:
    """See to it that this process has a key to send that the API will take, if it will ask for one.

    Raises:
        SettingsInvalid: it has none, or one that is not.
    """
    found = _keys(settings)
    if not found.any_stored:
        return
    if settings.api_key is None:
        raise SettingsInvalid(
            "there are API keys: set TIDEGATE_API_KEY to one, for the question that is asked first"
        )
    try:
        found.of_token(settings.api_key.get_secret_value(), time.time())
    except ClientError as error:
        raise SettingsInvalid(f"TIDEGATE_API_KEY: {error.message}") from error


def _keys(settings: Settings) -> Keys:
    with redis.Redis.from_url(settings.server_url, retry=Retry(NoBackoff(), 0)) as connection:
        return KeyBook(connection).read()[0]


def _addresses(host: str) -> set[str]:
    """What a host's name stands for; the name itself where that is not known."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return {host}


@contextmanager
def _book(settings: Settings) -> Iterator[KeyBook]:
    """The keys on the queue's server; the embedded one is started where it does not run."""
    with embedded_server(settings) if settings.redis_url is None else nullcontext():
        insist_on_queue(settings)
        with redis.Redis.from_url(settings.server_url) as connection:
            yield KeyBook(connection)


def _given(limits: dict[str, Any]) -> dict[str, Any]:
    """The fields that options were given for; 0 is no limit, and so is an expiry that never comes."""
    context = click.get_current_context()
    fields = {name: value for name, value in limits.items() if value is not None and value != ()}
    fields = {name: None if value == 0 and value is not False else value for name, value in fields.items()}
    asked = (
        "expires" in limits
        and context.get_parameter_source("expires") is click.core.ParameterSource.COMMANDLINE
    )
    fields.pop("expires", None)
    return fields | ({"expires_at": limits["expires"]} if asked else {})


@contextmanager
def _within_range() -> Iterator[None]:
    """What is out of range in the options is told as click tells it."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise click.UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _named(found: Keys, word: str) -> Key:
    """The one key with such a beginning or name.

    Raises:
        TidegateError: there is none, or several.
    """
    named = [key for key in found.by_owner.values() if word in {key.prefix, key.name} and word]
    if not named:
        raise TidegateError(f"no key begins with {word!r} or is named so; `tidegate keys list` shows them")
    if len(named) > 1:
        prefixes = ", ".join(key.prefix for key in named)
        raise TidegateError(f"several keys are named {word!r}: name one by its beginning, {prefixes}")
    return named[0]
