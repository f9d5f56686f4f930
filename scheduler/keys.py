"""API keys: what one is and may do, and how it is told from all others. Pure.

A key's token is 256 random bits, shown once. Of it the SHA-256 is kept, which needs no salt and no slowness: nobody
guesses 256 bits. The digest's first 16 digits are the owner whom the key's jobs belong to (:mod:`scheduler.owner`).
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, JsonValue, TypeAdapter

from scheduler.errors import ClientError, SettingsInvalid
from scheduler.job import PRIORITIES
from scheduler.later import LATER, together, told_apart
from scheduler.owner import OWNER_DIGITS, token_digest

TOKEN_BYTES: Final = 32
TOKEN_PREFIX: Final = "tg-"  # noqa: S105 - what tells such a token from others', as scanners of code do
SHOWN_CHARACTERS: Final = len(TOKEN_PREFIX) + 8
"""Of a token, what lists show: 48 of its bits; 208 stay secret."""

TOKENS_PER_MINUTE_MOST: Final = 100_000_000
"""So that what is counted at this rate since 1970 is a number that the server holds exactly (2^53)."""

_LATEST: Final = 253_402_128_000.0  # two days before the year 10000, so that it is a date in every time zone

Limit = Annotated[int, Field(ge=1, le=1 << 31)]
Moment = Annotated[float, Field(ge=0, le=_LATEST, allow_inf_nan=False)]
Priority = Literal["interactive", "standard", "batch"]
assert get_args(Priority) == PRIORITIES


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its token. Times are Unix seconds; None, or nothing in a tuple: no limit.

    Args:
        digest: the token's SHA-256, hexadecimal.
        prefix: how the token begins, for people.
        created_at: when it was made.
        name: whose it is, or what for.
        expires_at: when it stops working.
        queued_jobs: how many of its jobs may wait.
        tokens_per_minute: prompt and ``max_tokens`` of the jobs it may submit.
        models: those it may use.
        priorities: the classes it may use.
        sees_all: whether it is an operator's, who may see and cancel everybody's jobs.
    """

    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    prefix: Annotated[str, Field(max_length=32)]
    created_at: Moment
    name: Annotated[str, Field(max_length=64)] = ""
    expires_at: Moment | None = None
    queued_jobs: Limit | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=TOKENS_PER_MINUTE_MOST)] | None = None
    models: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    priorities: tuple[Priority, ...] = ()
    sees_all: bool = False
    later: dict[str, JsonValue] = field(default_factory=dict, compare=False, repr=False)
    """What a later release wrote beside; written back as it was, so that a limit that this one does not know stays."""

    @property
    def owner(self) -> str:
        """Whose its jobs are."""
        return self.digest[:OWNER_DIGITS]

    def expired(self, now_seconds: float) -> bool:
        """Whether it works no more."""
        return self.expires_at is not None and now_seconds >= self.expires_at

    def may_use(self, model: str) -> bool:
        """Whether it may use a model."""
        return not self.models or model in self.models

    def insist(self, model: str, priority: str) -> None:
        """See to it that it may submit such a job.

        Raises:
            ClientError: ``forbidden``; ``param`` names the field.
        """
        if not self.may_use(model):
            raise ClientError("forbidden", f"this API key may not use the model {model!r}", param="model")
        self.insist_on_class(priority)

    def insist_on_class(self, priority: str) -> None:
        """See to it that it may submit jobs of a class.

        Raises:
            ClientError: ``forbidden``.
        """
        if self.priorities and priority not in self.priorities:
            allowed = " and ".join(self.priorities)
            reason = f"this API key may not submit {priority} jobs; it may submit {allowed} ones"
            raise ClientError("forbidden", reason, param="priority")

    def changed(self, **fields: Any) -> Key:
        """The same key with other limits.

        Raises:
            ValueError: a field is out of range.
        """
        return _KEY.validate_python({**self.fields(), **fields, LATER: self.later})

    def fields(self) -> dict[str, Any]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__ if name != LATER}

    def view(self) -> dict[str, Any]:
        """What people are shown; nothing that opens anything."""
        return {name: value for name, value in self.fields().items() if name != "digest"}

    def dump(self) -> bytes:
        """As it is stored."""
        return json.dumps(together(self, self.__slots__)).encode()


_OBJECT: Final = TypeAdapter(dict[str, Any])
_KEY: Final = TypeAdapter(Key)  # whoever writes to the server may have written it


def read_key(text: bytes) -> Key:
    """What :meth:`Key.dump` wrote.

    Raises:
        ValueError: it is something else.
    """
    return _KEY.validate_python(told_apart(_OBJECT.validate_json(text), Key.__slots__))


def new_key(now_seconds: float, **limits: Any) -> tuple[str, Key]:
    """A new token, and its key.

    Raises:
        ValueError: a limit is out of range.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    made = Key(digest=token_digest(token), prefix=token[:SHOWN_CHARACTERS], created_at=now_seconds)
    return token, made.changed(**limits)


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys at one moment.

    Args:
        any_stored: whether there are any, such as cannot be read or have expired among them: then nobody gets in
            without one.
        by_owner: those that can be read.
    """

    any_stored: bool = False
    by_owner: Mapping[str, Key] = field(default_factory=dict)

    def insist_on_some(self) -> None:
        """See to it that there are any, for an API that others than this machine's may reach.

        Raises:
            SettingsInvalid: there are none; the message says what to do.
        """
        if not self.any_stored:
            raise SettingsInvalid(
                "without API keys the API listens on loopback only: make a key with `tidegate keys add`, or set "
                "TIDEGATE_HOST=127.0.0.1, or, where something else keeps others out, TIDEGATE_OPEN=true"
            )

    def of_token(self, token: str | None, now_seconds: float) -> Key:
        """The key of a token that was sent.

        Raises:
            ClientError: ``unauthorized``; there is none, it is not known, or it has expired.
        """
        if token is None:
            raise ClientError("unauthorized", "an API key is needed: send it as Authorization: Bearer KEY")
        digest = token_digest(token)
        found = self.by_owner.get(digest[:OWNER_DIGITS])
        # What the look-up by a part of the digest takes tells at most that part, of no use without a token to it.
        if found is None or not hmac.compare_digest(found.digest, digest):
            raise ClientError("unauthorized", "this API key is not known here")
        return _unexpired(found, now_seconds)

    def of_owner(self, owner: str, now_seconds: float) -> Key | None:
        """The key whose limits an owner's new jobs have; None where there are no keys at all, or no owner.

        Raises:
            ClientError: ``unauthorized``; it was removed, or has expired, since whoever submits was let in.
        """
        if not owner or not self.any_stored:
            return None
        if (found := self.by_owner.get(owner)) is None:
            raise ClientError("unauthorized", "the API key that this job would belong to was removed")
        return _unexpired(found, now_seconds)


def _unexpired(key: Key, now_seconds: float) -> Key:
    if key.expired(now_seconds):
        when = datetime.fromtimestamp(key.expires_at or 0.0, UTC)
        raise ClientError("unauthorized", f"this API key expired on {when:%Y-%m-%d at %H:%M} UTC")
    return key
