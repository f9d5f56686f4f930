"""API keys on the queue's server: written by an operator, read by every API at most once a second.

Keys::

    tidegate:keys  hash; owner -> key (JSON, :class:`scheduler.keys.Key`); an entry stays until it is removed
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from scheduler.errors import StoreUnavailable
from scheduler.keys import Key, Keys, read_key
from scheduler.swap import Guard, Swap, Swapper

KEYS_KEY: Final = "tidegate:keys"

FRESH_SECONDS: Final = 1.0
"""For how long a removed, changed or new key goes unnoticed."""


def read_keys(connection: Redis) -> tuple[Keys, list[str]]:
    """All keys, and the entries that hold none.

    What is no hash of ours holds keys that nobody has: it lets nobody in.
    """
    try:
        entries: Any = connection.hgetall(KEYS_KEY)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return Keys(any_stored=True), []
    found: dict[str, Key] = {}
    unreadable: list[str] = []
    for name, text in entries.items():
        owner = name.decode(errors="replace")
        try:
            key = read_key(text)
        except ValueError:
            key = None
        if key is None or key.owner != owner:
            unreadable.append(owner)
        else:
            found[owner] = key
    return Keys(bool(entries), found), unreadable


class KeyBook:
    """An operator's hand on the keys.

    Args:
        connection: a client that answers bytes.
    """

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._swap = Swapper(connection)

    def read(self) -> tuple[Keys, list[str]]:
        """All keys, and the entries that hold none."""
        return read_keys(self._connection)

    def add(self, key: Key) -> bool:
        """Write a new key; False where its owner has one."""
        return self._write(key, there=False)

    def change(self, key: Key) -> bool:
        """Write a key again; False where it was removed meanwhile."""
        return self._write(key, there=True)

    def remove(self, owner: str) -> bool:
        """Remove a key, or an entry that holds none; False where it is gone."""
        gone: Any = self._connection.hdel(KEYS_KEY, owner)
        if gone:
            return True
        names: Any = self._connection.hkeys(
            KEYS_KEY
        )  # one that others wrote may be no text, and is shown as best it can
        odd = [name for name in names if name.decode(errors="replace") == owner]
        return bool(odd) and bool(self._connection.hdel(KEYS_KEY, *odd))

    def _write(self, key: Key, *, there: bool) -> bool:
        guard = Guard(("HEXISTS", KEYS_KEY, key.owner), int(there))
        return self._swap(Swap((guard,), (("HSET", KEYS_KEY, key.owner, key.dump()),))) == [1]


class KeyRing:
    """The keys as a process that serves knows them: at most :data:`FRESH_SECONDS` old.

    Args:
        connection: a client that answers bytes.
        clock: Unix seconds, by which keys expire.
        steady: seconds that nobody sets, by which what is known grows old.
    """

    def __init__(
        self,
        connection: Redis,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection, self._clock, self._steady = connection, clock, steady
        self._known: tuple[float, Keys] | None = None
        self._failed_at = float("-inf")
        self._lock = threading.Lock()

    def current(self) -> Keys:
        """All keys.

        They are read by one of those who find them old, while the others wait for it: requests do not cost the server
        a command each. Where the server does not answer nobody is let in, since a key may have been removed.

        Raises:
            StoreUnavailable: the server does not answer.
        """
        if (known := self._fresh()) is not None:
            return known
        asked_at = self._steady()
        with self._lock:
            if (known := self._fresh()) is not None:
                return known
            if self._failed_at >= asked_at:  # whoever waited for that read has waited as long as one may take
                raise StoreUnavailable("the API keys could not be read")
            began = self._steady()
            try:
                known, _ = read_keys(self._connection)
            except RedisError as error:
                self._failed_at = self._steady()
                raise StoreUnavailable(f"the API keys could not be read: {error}") from error
            self._known = (began, known)
            return known

    def last_known(self) -> Keys:
        """The same; where the server does not answer, as they were when it last did.

        Raises:
            StoreUnavailable: it never did.
        """
        try:
            return self.current()
        except StoreUnavailable:
            if self._known is None:
                raise
            return self._known[1]

    def of_token(self, token: str | None, keys: Keys | None = None) -> Key:
        """The key of a token, as :meth:`scheduler.keys.Keys.of_token` finds it; among these, or the current ones."""
        return (keys or self.current()).of_token(token, self._clock())

    def of_owner(self, owner: str) -> Key | None:
        """The key of an owner, as :meth:`scheduler.keys.Keys.of_owner` finds it; '' is not looked up."""
        return self.current().of_owner(owner, self._clock()) if owner else None

    def lets_in(self, key: Key | None) -> bool:
        """Whether whoever came with a key, or with none, would be let in again.

        A key that was changed still is one. Where the server does not answer nobody new is let in, and nobody turned
        out: an outage ends no stream.
        """
        try:
            known = self.current()
        except StoreUnavailable:
            return True
        if key is None:
            return not known.any_stored
        found = known.by_owner.get(key.owner)
        return found is not None and found.digest == key.digest and not found.expired(self._clock())

    def _fresh(self) -> Keys | None:
        known = self._known
        if known is None or not 0 <= self._steady() - known[0] < FRESH_SECONDS:
            return None
        return known[1]
